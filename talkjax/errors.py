"""The errors that a user can correct: one sentence each, which names the thing, what was expected, and the remedy."""


class UserError(Exception):
  """The work cannot be done (exit code 1)."""


class UsageError(UserError):
  """The command line itself is wrong (exit code 2)."""
