"""``python -m rtc_flower``: the command without its launcher."""

from __future__ import annotations

from rtc_flower.cli import main

if __name__ == "__main__":
    main()
