"""The server: one query to every node, a printed line per reply."""

import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every node once, until enough have answered."""
    print(f"server started mode={context.run_config['mode']}", flush=True)
    if context.run_config["mode"] == "fail":
        raise RuntimeError("the ping server was told to fail")
    while context.run_config["mode"] == "wait":
        time.sleep(0.5)
    wanted = int(context.run_config["min-nodes"])
    nodes: list[int] = []
    while len(nodes) < wanted:
        nodes = list(grid.get_node_ids())
        time.sleep(0.1)
    question = RecordDict({"config": ConfigRecord({"word": "ping"})})
    sent = list(grid.push_messages([Message(question, node, "query") for node in nodes]))
    replies = 0
    while replies < wanted:  # a node that was killed a moment ago still counts as online
        for reply in list(grid.pull_messages(sent)):
            sent.remove(reply.metadata.reply_to_message_id)
            replies += reply.has_content()
            told = reply.content["config"]["answer"] if reply.has_content() else reply.error
            print("reply", told, flush=True)
        time.sleep(0.2)
    print("server finished", flush=True)
