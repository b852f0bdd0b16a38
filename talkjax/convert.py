"""Makes a workdir from published weights.

python -m talkjax.convert --source=diffusion_video_editing --path=735_Network.pth --output=runs/published
python -m talkjax.convert --source=vexpress --path=V-Express/model_ckpts --output=runs/vexpress
python -m talkjax.convert --source=super_resolution --path=AIST++_SR.pt --output=runs/super_resolution
python -m talkjax.convert --source=sd15 --path=stable-diffusion-v1-5 --output=runs/sd15
python -m talkjax.convert --source=vqgan --path=vq-f4/model.ckpt --output=runs/vqgan
python -m talkjax.convert --source=lpips --path=FOLDER --output=runs/lpips    # alex.pth and alexnet-owt-7be5be79.pth
python -m talkjax.convert --source=wav2vec2 --path=hf:facebook/wav2vec2-base-960h --output=runs/wav2vec2

`generate` and `evaluate` accept the workdir of a system like a trained one; training accepts that of a pretrained
network (sd15, sd_vae, wav2vec2, animatediff) as --config.pretrained.sd15=runs/sd15. guided_diffusion and mm_diffusion
take any of the released files: diffusion models, upsamplers, classifiers; landscape, AIST++ and their SR. Networks of
scores (inception, i3d, syncnet, wav2lip_syncnet, hopenet) are read from state dicts, not from TorchScript. PyTorch is
not needed, and no code in a checkpoint is executed (see talkjax.weights). `hf:ORG/NAME[/FILE][@REVISION]` is fetched
from the Hugging Face Hub into its cache. Settings that a checkpoint does not contain come from --config.
"""

import importlib
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType

import jax
import ml_collections

from talkjax import cli, options, systems
from talkjax.errors import UsageError, UserError
from talkjax.options import Option
from talkjax.training import checkpoint
from talkjax.weights import hub, pretrained

SOURCES = systems.sources()
NAMES = (*SOURCES, *pretrained.FILES)
OPTIONS = (
  Option('source', str, 'Whose weights.', choices=NAMES),
  Option(
    'path',
    str,
    'The checkpoint: a file, a folder that has it under its published name, or hf:ORG/NAME[/FILE][@REVISION].',
  ),
  Option('output', str, 'The workdir to make.'),
  options.CONFIG,
)


def convert(
  source: str, path: str | pathlib.Path, output: str, config: ml_collections.ConfigDict | None = None
) -> list[str]:
  """Reads published weights and writes a workdir.

  Args:
    source: one of NAMES.
    path: a file, a folder, or 'hf:ORG/NAME[/FILE][@REVISION]' (see `talkjax.weights.hub.fetch`).
    output: the workdir; it must not have checkpoints yet.
    config: of the source's system; by default the source's. Pretrained networks have none.

  Returns:
    a line for every part: the file it was read from, and what was ignored in it.

  Raises:
    UsageError: no such source.
    UserError: nothing to read, not a checkpoint of this source, or a workdir that has checkpoints.
  """
  if str(path).startswith(hub.PREFIX):
    path = hub.fetch(str(path), pretrained.FILES.get(source, ()))
  if source in pretrained.FILES:
    params, fields, file = pretrained.read_with_fields(source, path)
    about = ml_collections.ConfigDict({'pretrained_network': source})
    if fields or source == 'wav2vec2':
      about[source] = fields
    checkpoint.save_params(output, about, params, 0)
    return [f'params from {file}']
  if source not in SOURCES:
    raise UsageError(f'--source={source}: expected one of {", ".join(NAMES)}')
  module = importlib.import_module(SOURCES[source])
  if config is None:
    config = _default_config(module)
  files = module.find(pathlib.Path(path), config)
  params, example, notes = module.convert(files, config, _read_pretrained)
  wanted = jax.eval_shape(systems.build(config).init, jax.random.key(0), example)
  for item, tree in params.items():
    checkpoint.check_fit(tree, wanted, f'checkpoint {files.get(item, path)}')
  checkpoint.save_params(output, config, params['params'], module.step(files), params.get('ema'))
  return notes


def _read_pretrained(name: str, path, net):
  """A pretrained network's parameters from its published folder, or from the workdir that was made of it."""
  if (pathlib.Path(path) / 'config.json').is_file() and (pathlib.Path(path) / 'checkpoints').is_dir():
    return checkpoint.load_params(path)[1]
  return pretrained.read(name, path, net)[0]


def _default_config(module: ModuleType) -> ml_collections.ConfigDict:
  file = pathlib.Path(__file__).resolve().parent.parent / module.CONFIG
  if not file.is_file():
    raise UserError(f'{module.CONFIG} is not next to the package: name the file with --config={module.CONFIG}')
  config = cli.load_config(str(file), module.ARGUMENTS)
  config.update_from_flattened_dict(module.RELEASED)
  return config


def _main(args) -> None:
  example = f'python -m talkjax.convert --source={"|".join(NAMES)} --path=FILE_OR_DIR --output=DIR'
  options.required(args, ('source', 'path', 'output'), example)
  checkpoint.check_new(args.output, '--output')
  for line in convert(args.source, args.path, args.output, args.config):
    print(f'{args.output}: {line}')


def main(argv: Sequence[str] | None = None) -> int:
  return cli.run(_main, OPTIONS, __doc__, argv)


if __name__ == '__main__':
  sys.exit(main())
