"""Why a file of weights is not read, in words that are safe to print."""


class Refused(Exception):
  """A file is damaged, unsupported or hostile: the message completes a sentence that begins with the file's name."""


def printable(value: object, length: int = 80) -> str:
  """A value from a file for a message: text without control characters, which could drive a terminal, and cut short.

  Of a container or another object only the type is named: its own text may take forever to write.
  """
  if type(value) not in (str, int, float, bool, type(None)):
    return f'a {type(value).__name__}'
  text = str(value)
  return ''.join(c if c.isprintable() else '?' for c in text[:length]) + ('...' if len(text) > length else '')
