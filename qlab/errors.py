"""The one exception a user of qlab is meant to see."""


class QlabError(ValueError):
    """Bad input: the message is one line that says what was wrong, where, and what to do.

    The command line prints it and exits with code 2; a notebook shows it as the last line of the traceback.
    """
