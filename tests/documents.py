"""Tries the commands in the documents, each down to its first step, and prints a table.

  python -m tests.documents [--whole] [--only=REGEX] [--output=F.json]

The commands are those in fenced code blocks of the Markdown files (blocks of anything else have an info string, such
as `text`) and in the docstrings of the configs. They run in this process in a folder for each document, exactly as
written, with made-up files, weights and corpora (see `tests.made_up`), on networks of fewer channels and smaller
pictures. A later command of the document continues from what an earlier one left.

Corpora are built and weights converted. Training stops where its state would be created: flags, config, batch, corpus
and the weights that the command names have been checked by then. Of the configs' docstrings, which have much the same
commands again, only flags, config and batch are checked. Generation and scoring stop at the first frame. With --whole,
every training takes a step and videos are generated and scored, which takes minutes.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from talkjax import benchmark, convert, systems, train
from talkjax.training import checkpoint, input_pipeline, sharding
from talkjax.training.compile import training_program
from tests import made_up
from tests.commands import ROOT

DOCUMENTS = ('README.md', 'data/README.md', 'docs/*.md', 'WORKSPACE_NOTES.md', 'configs/*.py')
DEVICES = 8  # those of the recipes' meshes
LINKED = ('configs', 'data', 'launch', 'tests')


@dataclasses.dataclass(frozen=True)
class Command:
  """A command of a document: its line, its words, and the variables set in front of it."""

  document: str
  line: int
  words: tuple[str, ...]
  environment: tuple[str, ...] = ()

  def __str__(self):
    return shlex.join((*self.environment, *self.words))

  def value(self, flag: str) -> str | None:
    """The value of --flag=value."""
    return next((w.split('=', 1)[1] for w in self.words if w.startswith(f'--{flag}=')), None)


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of a command: how far it was tried, and the error, '' for none."""

  command: Command
  reached: str
  error: str
  seconds: float


class Failed(Exception):
  """A command did not work, or no handler knows it."""


class Reached(BaseException):
  """The first step of a command is about to be compiled. No Exception, which the command would report."""


def find(root: pathlib.Path = ROOT) -> list[Command]:
  """The commands of all documents, in their order."""
  paths = [path for pattern in DOCUMENTS for path in sorted(root.glob(pattern))]
  return [c for path in paths for c in read(path.read_text(), str(path.relative_to(root)))]


def read(text: str, document: str) -> list[Command]:
  """The commands of one document: of fenced blocks without another info string, or of a module's docstring."""
  if document.endswith('.py'):
    lines = (ast.get_docstring(ast.parse(text), clean=False) or '').splitlines()
    block = [line if line.startswith('  ') else '' for line in lines]
  else:
    block, kind = [], None
    for line in text.splitlines():
      fence = re.match(r'\s*```(.*)', line)
      if fence:
        kind = (fence[1].strip() or 'bash') if kind is None else None
      block.append(line if kind == 'bash' and not fence else '')
  commands, start = [], None
  for number, line in enumerate(block, 1):
    start = start or number
    if line.endswith('\\'):
      continue
    joined = ' '.join(part.rstrip('\\') for part in block[start - 1 : number])
    words = shlex.split(joined, comments=True)
    count = next((i for i, word in enumerate(words) if not re.match(r'[A-Z_]+=', word)), len(words))
    if words:
      commands.append(Command(document, start, tuple(words[count:]), tuple(words[:count])))
    start = None
  return commands


class Trial:
  """Tries commands in folders under `root`. Corpora are shared, as building them takes longest."""

  def __init__(self, root: pathlib.Path, commands: list[Command], whole: bool = False):
    self.root, self.commands, self.whole = root, commands, whole
    self.datasets = root / 'datasets'
    self.results: dict[tuple[str, str], Result] = {}

  def run(self, command: Command) -> Result:
    """Tries a command, once per document; what it prints is only shown where it fails."""
    key = command.document, str(command)
    if key not in self.results:
      self.results[key] = self._run(command)
    return dataclasses.replace(self.results[key], command=command)

  def _run(self, command: Command) -> Result:
    folder = self.root / re.sub(r'\W', '_', command.document)
    if not folder.exists():
      folder.mkdir(parents=True)
      self.datasets.mkdir(exist_ok=True)
      for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
      (folder / 'datasets').symlink_to(self.datasets)
    start, reached, error = time.process_time(), '', ''
    try:
      with contextlib.chdir(folder), made_up.narrow_networks():
        reached = handler(command)(self, command)
    except Failed as failure:
      error = str(failure)
    return Result(command, reached, error, time.process_time() - start)

  def call(self, command: Command, *more: str) -> None:
    """Runs `python -m module args` in this process, to its first step unless `whole`."""
    out, code = io.StringIO(), 0
    with contextlib.ExitStack() as stack:
      stack.enter_context(contextlib.redirect_stdout(out))
      stack.enter_context(contextlib.redirect_stderr(out))
      if not self.whole:
        for module, name, replacement in STOPS:
          stack.enter_context(mock.patch.object(module, name, replacement))
      with contextlib.suppress(Reached):
        code = importlib.import_module(command.words[2]).main([*command.words[2:], *more])
    if code:
      raise Failed(out.getvalue().strip().splitlines()[-1])

  def record(self):
    """A puppet, of whom all made-up media are."""
    self.corpus('puppets')
    return next(input_pipeline.eval_records(mock.Mock(dir=str(self.datasets), corpus='puppets'), 'train', 1))

  def corpus(self, name: str) -> None:
    """Builds a corpus that no command has built yet."""
    if not (self.datasets / name).exists():
      self.build(Command('', 0, ('python', '-m', 'talkjax.build', f'data/{name}', f'--manual_dir={name}_made_up')))

  def build(self, command: Command) -> str:
    corpus = pathlib.Path(command.words[3]).name
    if corpus == 'puppets':
      command = dataclasses.replace(command, words=tuple(w for w in command.words if 'manual_dir' not in w))
    elif manual := command.value('manual_dir'):
      made_up.footage(corpus, pathlib.Path(manual), self.record())
    more = ['--workers=0', '--max_examples_per_split=2']
    for flag, source in (('latents', 'sd_vae'), ('speech', 'wav2vec2')):
      if value := command.value(flag):
        self.corpus(corpus)
        self.workdir(source, value)
        more += ['--size=32']
    self.call(command, *more)
    return 'built' if len(more) == 2 else 'encoded'

  def workdir(self, source: str, path: str) -> None:
    """Makes the workdir of a pretrained network that no command has made yet."""
    if not pathlib.Path(path).exists():
      made_up.workdir(source, pathlib.Path(path))

  def convert(self, command: Command) -> str:
    made_up.published(command.value('source'), pathlib.Path(command.value('path')))
    default = convert._default_config
    with mock.patch.object(convert, '_default_config', lambda module: made_up.narrow_published(default(module))):
      self.call(command)
    return 'converted'

  def train(self, command: Command) -> str:
    real, load, programs, loaded = train.train, train._load, [], {}
    brief = command.document.startswith('configs/') and not self.whole

    def record(*args):
      programs.append((args[0], training_program(*args)))
      return programs[-1][1]

    def record_loaded(*args):
      loaded.update(load(*args))
      return loaded

    def narrow(config, workdir, *more):
      if brief:
        train._check_batch_size(config)
        raise Reached
      config = made_up.narrow(config)
      config.steps = 1
      self.corpus(config.data.corpus.split('/')[0])
      for name, path in {**config.pretrained, 'wav2vec2': config.get('audio', {}).get('weights')}.items():
        if path not in (None, '', 'random'):
          self.workdir(name, path)
      try:
        real(config, workdir, *more)
      except Reached:
        if self.needed_after(command, workdir):
          fresh = lambda path, x: loaded.get(sharding.path_name(path), np.zeros(x.shape, x.dtype))
          resolved, program = programs[-1]
          params = jax.tree_util.tree_map_with_path(fresh, program.state.params)
          checkpoint.save_params(workdir, ml_collections.ConfigDict(resolved), params, 1)

    with mock.patch.multiple(train, train=narrow, training_program=record, _load=record_loaded):
      self.call(command)
    return 'config checked' if brief else 'step taken' if self.whole else 'step reached'

  def needed_after(self, command: Command, workdir: str) -> bool:
    """Whether a later command of the document names a workdir."""
    later = self.commands[self.commands.index(command) + 1 :]
    return any(w.endswith(f'={workdir}') for c in later if c.document == command.document for w in c.words)

  def generate(self, command: Command) -> str:
    for flag in ('video', 'image', 'audio', 'kps', 'identity'):
      for name in (command.value(flag) or '').split(','):
        for path in [name.replace('*', letter) for letter in 'xy'] if '*' in name else [name]:
          if path and not pathlib.Path(path).exists():
            made_up.media(pathlib.Path(path), self.record())
    workdir = pathlib.Path(command.value('workdir') or '')
    about = json.loads(file.read_text()) if (file := workdir / 'config.json').is_file() else {}
    steps = any(o.name == 'steps' for o in systems.module(about['system']).OPTIONS) if 'system' in about else True
    self.call(command, *['--steps=1'] * steps)
    return 'generated' if self.whole else 'frame reached'

  def evaluate(self, command: Command) -> str:
    for folder in filter(None, map(command.value, ('generated', 'reference'))):
      if not pathlib.Path(folder).exists():
        made_up.media(pathlib.Path(folder) / 'a.mp4', self.record())
    self.call(command, '--limit=2')
    return 'scored' if self.whole else 'frame reached'

  def benchmark(self, command: Command) -> str:
    def narrow(function):
      def measure(config, *args, **how):
        config = made_up.narrow(config)
        self.corpus(config.data.corpus)
        return function(config, *args, **how)

      return measure

    patches = {name: narrow(getattr(benchmark, name)) for name in ('benchmark', 'compile_only')}
    with mock.patch.multiple(benchmark, **patches):
      self.call(command, '--repeats=1')
    return 'measured' if self.whole else 'step reached'

  def script(self, command: Command) -> str:
    path = pathlib.Path(command.words[0])
    extras = command.words[1:] if path.name == 'setup.sh' else ()
    known = re.findall(r"^    '(\w+)': \[", (ROOT / 'setup.py').read_text(), re.MULTILINE)
    if not path.is_file() or not path.stat().st_mode & 0o100:
      raise Failed(f'{path} is not a script that can run')
    if unknown := set(','.join(extras).split(',')) - {*known, ''}:
      raise Failed(f'setup.py has no extra {unknown.pop()}')
    subprocess.run(['bash', '-n', str(path)], check=True)
    return 'syntax checked'

  def pytest(self, command: Command) -> str:
    if missing := [w for w in command.words[3:] if w.startswith('tests/') and not pathlib.Path(w).exists()]:
      raise Failed(f'there is no {missing[0]}')
    return 'paths checked'

  def program(self, command: Command) -> str:
    """A program among the tests: it exists, and has the flags."""
    words = command.words
    module = words[2] if words[1] == '-m' else words[1].removesuffix('.py').replace('/', '.')
    found = importlib.util.find_spec(module)
    if not found:
      raise Failed(f'there is no module {module}')
    text = pathlib.Path(found.origin).read_text()
    for word in words[2:]:
      if word.startswith('--') and f"'{word.split('=')[0]}'" not in text:
        raise Failed(f'{module} has no {word.split("=")[0]}')
    return 'flags checked'

  def environment(self, command: Command) -> str:
    return 'made by launch/setup.sh'


# By the beginning of a command, what tries it: the first that fits.
HANDLERS = (
  *((rf'python -m talkjax\.{name} ', getattr(Trial, name)) for name in ('build', 'convert', 'train')),
  *((rf'python -m talkjax\.{name} ', getattr(Trial, name)) for name in ('generate', 'evaluate', 'benchmark')),
  (r'(\./)?launch/\w+\.sh\b', Trial.script),
  (r'python -m pytest ', Trial.pytest),
  (r'python (-m tests\.|tests/)', Trial.program),
  (r'source \.venv/bin/activate$', Trial.environment),
)


def handler(command: Command):
  """What tries a command. Raises Failed if nothing does."""
  for pattern, found in HANDLERS:
    if re.match(pattern, shlex.join(command.words)):
      return found
  raise Failed('no handler in tests/documents.py knows this command')


def stop(*args, **kwargs):
  raise Reached()


def build_system(config):
  """The system of a config, which stops where it would generate.

  Tracing `init` takes most of the time of a training up to its first step: equal networks are traced once.
  """
  system = build(config)
  made = {key: config.get(key) for key in KEYS}
  key = f'{made} {config.get("audio", {}).get("kind")}'

  def init(rng, batch):
    if key not in SHAPES:
      SHAPES[key] = jax.eval_shape(system.init, rng, batch)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), SHAPES[key])

  return dataclasses.replace(system, init=init, generate=system.generate and stop)


# What the parameters of a system depend on.
KEYS = (
  *('system', 'size', 'frames', 'margin', 'model', 'latents', 'speed', 'loss'),
  *('space', 'captions', 'joined', 'caption_classifier', 'wav2lip', 'renderer'),
)
build = systems.build
SHAPES = {}  # of parameters, by what they depend on
STOPS = (
  (checkpoint, 'Checkpoints', stop),  # of training: it is opened when everything has been read and checked
  (systems, 'build', build_system),
  (benchmark, 'compile_step', stop),
)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--whole', action='store_true', help='take steps and generate')
  parser.add_argument('--only', default='', help='only lines `DOCUMENT COMMAND` in which this regex is found')
  parser.add_argument('--output', help='a JSON file for the table')
  args = parser.parse_args()
  if jax.device_count() < DEVICES:
    flag = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={DEVICES}'
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flag}
    return subprocess.call([sys.executable, '-m', 'tests.documents', *sys.argv[1:]], env=env)
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['documents'])  # grain reads absl flags
  commands = find()
  results = []
  with tempfile.TemporaryDirectory() as folder:
    trial = Trial(pathlib.Path(folder), commands, args.whole)
    for command in commands:
      if re.search(args.only, f'{command.document} {command}'):
        results.append(trial.run(command))
        r = results[-1]
        print(f'{r.seconds:5.1f} s  {r.error or r.reached:16} {command.document}:{command.line}  {command}', flush=True)
  if args.output:
    rows = [
      {**dataclasses.asdict(r), 'command': str(r.command), 'document': r.command.document, 'line': r.command.line}
      for r in results
    ]
    pathlib.Path(args.output).write_text(json.dumps(rows, indent=2) + '\n')
  return int(any(r.error for r in results))


if __name__ == '__main__':
  sys.exit(main())
