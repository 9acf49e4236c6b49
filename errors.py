"""The one exception whose message is meant for the person at the terminal."""


class UserError(Exception):
    """Something the user can put right.

    The command line prints the message as one line, without a traceback, and
    exits with status 2. Say what is wrong and name the way out.
    """
