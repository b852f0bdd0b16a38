"""The error of the weights readers, and the formatting of untrusted values in its messages."""


class Refused(Exception):
  """A file is damaged, unsupported or hostile. The message completes a sentence that starts with the file's name."""


def printable(value: object, length: int = 80) -> str:
  """Formats a value from a file for an error message.

  Text is truncated and its control characters, which could control a terminal, are replaced. For containers and other
  objects only the type is named, because formatting them can take unbounded time.
  """
  if type(value) not in (str, int, float, bool, type(None)):
    return f'a {type(value).__name__}'
  text = str(value)
  return ''.join(c if c.isprintable() else '?' for c in text[:length]) + ('...' if len(text) > length else '')
