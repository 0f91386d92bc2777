"""The node: answers with its own configuration."""

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def answer(message: Message, context: Context) -> Message:
    """Reply with the sorted node configuration."""
    text = ";".join(f"{key}={value!r}" for key, value in sorted(context.node_config.items()))
    content = RecordDict({"config": ConfigRecord({"answer": text or "nothing"})})
    return Message(content, reply_to=message)
