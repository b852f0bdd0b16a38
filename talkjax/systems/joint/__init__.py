"""What systems of joint samples, of sound and picture together, share: their spaces, their data and captions."""

from collections.abc import Sequence

from talkjax.errors import UserError


def label_of(caption: str, captions: Sequence[str], what: str) -> int:
  """The label of a caption; that of no caption, ''  or None, is their number.

  Args:
    caption: a known one, or ''.
    captions: the known ones.
    what: whose it is, for the message.

  Raises:
    UserError: the caption is not one of them; the message lists them.
  """
  if not caption:
    return len(captions)
  if caption not in captions:
    known = ', '.join(repr(c) for c in captions)
    raise UserError(f'{what}: the caption {caption!r} is not known to this model: expected one of {known}, or none')
  return captions.index(caption)
