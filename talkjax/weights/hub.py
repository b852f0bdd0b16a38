"""Fetches published weights from the Hugging Face Hub, with the library's own cache and token."""

import os
import pathlib
import re
from collections.abc import Sequence

from talkjax.errors import UsageError, UserError

PREFIX = 'hf:'
CONFIGS = ('config.json', 'preprocessor_config.json')  # sizes of a network, and what it expects of its input
SUFFIXES = ('.safetensors', '.bin', '.pth', '.pt', '.ckpt')


def fetch(address: str, names: Sequence[str] = ()) -> pathlib.Path:
  """Downloads weights that are not in the cache yet, with the configs next to them.

  A connection that breaks is resumed where it broke. When a failed command is repeated, whole files are kept.

  Environment variables of huggingface_hub apply: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.

  Args:
    address: 'hf:ORG/NAME[/FILE_OR_FOLDER][@REVISION]'.
    names: paths in the repository or folder; the first that exists is downloaded. Without them, all weights are.

  Returns:
    The local file or folder.

  Raises:
    UsageError: the address has another form.
    UserError: there is no such repository, revision or file, access is refused, or the hub cannot be reached.
  """
  match = re.fullmatch(rf'{PREFIX}([\w.-]+/[\w.-]+)(?:/([^@]+?)/?)?(?:@(.+))?', address)
  if not match:
    raise UsageError(f'--path={address}: expected hf:ORG/NAME, hf:ORG/NAME/FILE or either with @REVISION')
  repository, inside, revision = match.groups()
  try:
    import huggingface_hub
  except ImportError:
    missing = f'--path={address} needs huggingface_hub, which is not installed: pip install huggingface_hub'
    raise UserError(missing) from None
  api = huggingface_hub.HfApi(endpoint=os.environ.get('HF_ENDPOINT'))
  name = None
  if inside and inside.endswith(SUFFIXES):
    inside, _, name = inside.rpartition('/')
  try:
    info = api.model_info(repository, revision=revision)
    folder = f'{inside}/' if inside else ''
    there = [s.rfilename.removeprefix(folder) for s in info.siblings if s.rfilename.startswith(folder)]
    if name:
      wanted = [name]
    else:
      wanted = [n for n in names if n in there][:1] if names else [n for n in there if n.endswith(SUFFIXES)]
    if not wanted:
      raise UserError(f'--path={address} has no {" or ".join(names[:2]) or "weights"}: name a file of that repository')
    configs = {str(pathlib.PurePosixPath(n).with_name(c)) for n in wanted for c in CONFIGS}
    for part in (*sorted(configs & set(there)), *wanted):  # of one commit, whatever is pushed meanwhile
      file = pathlib.Path(api.hf_hub_download(repository, folder + part, revision=info.sha))
  except UserError:
    raise
  except Exception as error:  # network errors are those of whichever HTTP client huggingface_hub uses
    raise UserError(f'--path={address}: {_reason(error, repository, name or inside, revision)}') from error
  return file if name else file.parents[len(pathlib.PurePath(part).parts) - 1]


def _reason(error: Exception, repository: str, file: str | None, revision: str | None) -> str:
  """What went wrong, what to do."""
  from huggingface_hub import errors

  if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
    error = error.__cause__
  if isinstance(error, errors.GatedRepoError):
    return f'{repository} is gated: accept its conditions on its page, then set HF_TOKEN to a token of that account'
  if isinstance(error, errors.RepositoryNotFoundError):
    return f'there is no repository {repository}, or it is private: check the name, or set HF_TOKEN to a token for it'
  if isinstance(error, errors.RevisionNotFoundError):
    return f'{repository} has no revision {revision}: name a branch, a tag or a whole commit hash'
  if isinstance(error, errors.RemoteEntryNotFoundError):
    return f'{repository} has no file {file}: check the name, or leave it out'
  status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
  if status in (401, 403):
    return f'the hub refused access ({status}): check the token in HF_TOKEN, or the one that `hf auth login` saved'
  if status:
    return f'the hub answered with status {status}: try again later'
  return (
    f'the hub cannot be reached, or the download broke off ({type(error).__name__}): check the network and run the '
    'command again, or download the files elsewhere and give their folder'
  )
