"""What the Python clients have in common: a request a line on standard input, an answer a line on standard output.

`clients.rs` asks. A form is one way to enqueue; its name, what it does, and a function of the rows that returns ids or None.
"""

import importlib.metadata
import json
import sys


def tell(answer):
    print(json.dumps(answer), flush=True)


def need(package, version):
    """Ends the program unless this version of the package is there, which the README speaks of."""
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        found = "no version"
    if not found.startswith(version + "."):
        tell({"missing": f"{package} {version} ({found} is installed)"})
        sys.exit()


def go_on():
    """In the middle of a transaction that has read: here, the test tries to write."""
    tell({"read": True})
    sys.stdin.readline()


def messages(error):
    """What an error says, and what the errors say that caused it."""
    while error is not None:
        yield f"{type(error).__name__}: {error}"
        error = error.__cause__ or error.__context__


def serve(title, busy_timeout, numbers, forms):
    """`title` is what the README calls the client, `numbers` what becomes of IDs that are integers."""
    runs = {name: run for name, _, run in forms}
    announced = [(name, does, numbers) for name, does, _ in forms]
    tell({"title": title, "busy_timeout": busy_timeout, "forms": announced})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            tell({"ids": runs[request["form"]](request["rows"])})
        except Exception as error:
            tell({"error": " / ".join(messages(error))})
