"""A node that votes at once, and answers a plain message of the same size with one of the same."""

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict

from rtc_flower.clients.app import make_client_app
from rtc_flower.clients.contract import Contract


class Constant:
    """Votes for class 0: no time is spent on anything but the protocol."""

    description = "constant"

    def fit(self, X, y):
        """Nothing to learn."""
        return self

    def predict(self, X):
        """Answer 0."""
        return np.zeros(len(X), np.int64)


app = make_client_app(
    lambda context: Contract(Constant(), lambda: (np.zeros((1, 1)), np.zeros(1, np.int64)))
)


@app.query("plain")
def plain(message: Message, context: Context) -> Message:
    """Answer as many bytes as asked for."""
    size = int(message.content["samples"]["reply-bytes"])
    return Message(RecordDict({"reply": ConfigRecord({"data": bytes(size)})}), reply_to=message)
