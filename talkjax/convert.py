"""Makes a workdir of published weights.

python -m talkjax.convert --source=diffusion_video_editing --path=735_Network.pth --output=runs/published
python -m talkjax.convert --source=vexpress --path=V-Express/model_ckpts --output=runs/vexpress
python -m talkjax.convert --source=sd15 --path=stable-diffusion-v1-5 --output=runs/sd15

`generate` and `evaluate` take the workdir of a system as they take a trained one; training takes that of a foundation
(sd15, sd_vae, wav2vec2, animatediff) as --config.foundations.sd15=runs/sd15. PyTorch is not needed, and nothing in a
checkpoint is run (see talkjax.weights). Settings that a checkpoint does not hold are those of --config.
"""

import pathlib
import runpy

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from talkjax import cli, foundations, systems
from talkjax.errors import UsageError, UserError
from talkjax.systems.speech_edit import published as speech_edit
from talkjax.systems.vexpress import moore
from talkjax.systems.vexpress import published as vexpress
from talkjax.training import checkpoint

SOURCES = {module.NAME: module for module in (speech_edit, vexpress, moore)}

NAMES = (*SOURCES, *foundations.FILES)

_SOURCE = cli.flag(flags.DEFINE_string, 'source', None, f'Whose weights: {", ".join(NAMES)}.')
_PATH = cli.flag(
  flags.DEFINE_string, 'path', None, 'The checkpoint: a file, or a folder that holds it under its published name.'
)
_OUTPUT = cli.flag(flags.DEFINE_string, 'output', None, 'The workdir to make.')
_CONFIG = cli.flag(
  config_flags.DEFINE_config_file,
  'config',
  None,
  "Settings that the checkpoint does not hold (default: the source's own, with its released sizes).",
)


def convert(
  source: str, path: str | pathlib.Path, output: str, config: ml_collections.ConfigDict | None = None
) -> list[str]:
  """Reads published weights and writes a workdir.

  Args:
    source: one of NAMES.
    path: a file or folder.
    output: the workdir; it must not have checkpoints yet.
    config: of the source's system; by default the source's. Foundations have none.

  Returns:
    a line for every part: from which file it is, and what was left of that.

  Raises:
    UsageError: no such source.
    UserError: nothing to read, not a checkpoint of this source, or a workdir that has checkpoints.
  """
  if source in foundations.FILES:
    params, file = foundations.read(source, path)
    checkpoint.save_params(output, ml_collections.ConfigDict({'foundation': source}), params, 0)
    return [f'params from {file}']
  if source not in SOURCES:
    raise UsageError(f'--source={source} is not known: expected one of {", ".join(NAMES)}')
  module = SOURCES[source]
  if config is None:
    config = _default_config(module)
  files = module.find(pathlib.Path(path), config)
  params, example, notes = module.convert(files, config, _foundation)
  wanted = jax.eval_shape(systems.build(config).init, jax.random.key(0), example)
  for item, tree in params.items():
    checkpoint.check_fit(tree, wanted, f'checkpoint {files.get(item, path)}')
  checkpoint.save_params(output, config, params['params'], module.step(files), params.get('ema'))
  return notes


def _foundation(name: str, path, net):
  """A foundation's parameters from its published folder, or from the workdir that was made of it."""
  if (pathlib.Path(path) / 'config.json').is_file() and (pathlib.Path(path) / 'checkpoints').is_dir():
    return checkpoint.load_params(path)[1]
  return foundations.read(name, path, net)[0]


def _default_config(module) -> ml_collections.ConfigDict:
  file = pathlib.Path(__file__).resolve().parent.parent / module.CONFIG
  if not file.is_file():
    raise UserError(f'{module.CONFIG} is not beside the package: name the file with --config={module.CONFIG}')
  config = runpy.run_path(str(file))['get_config'](module.ARGUMENTS)
  config.update_from_flattened_dict(module.RELEASED)
  return config


def main(_):
  for flag in (_SOURCE, _PATH, _OUTPUT):
    if flag.value is None:
      raise UsageError(
        f'--{flag.name} is missing: python -m talkjax.convert --source={"|".join(NAMES)} --path=FILE_OR_DIR '
        '--output=DIR'
      )
  for line in convert(_SOURCE.value, _PATH.value, _OUTPUT.value, _CONFIG.value):
    print(f'{_OUTPUT.value}: {line}')


if __name__ == '__main__':
  cli.run(main)
