"""Event log -> labelled text: events, cutoffs, labels, aggregates and the serializer."""


class InputError(ValueError):
    """The user's config, log or files cannot be used; the message is one sentence that names the thing and the remedy.

    Commands print the message without a traceback and exit with code 2.
    """
