"""What hospital B knows about tumours; nobody else has this package."""
