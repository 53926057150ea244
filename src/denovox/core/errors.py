"""The one error a user is meant to read."""


class InputError(Exception):
    """What came in cannot be worked on; the message is one clear sentence.

    The command line prints it on stderr and exits with code 2.
    """
