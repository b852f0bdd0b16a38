"""Damaged workdirs, corpora and feature caches: each is said to be damaged, or works as before."""

import json
import os
import pathlib
import shutil

import pytest

from configs import fd2talk, speech_edit
from talkjax import train
from tests import made_up_face
from tests.hostile import workdirs

pytestmark = pytest.mark.large
KIND, JOINED, SHARDS = 'damaged workdirs', 'damaged joined workdirs', 'damaged shards and caches'


@pytest.fixture(scope='module')
def trained(puppets, tmp_path_factory):
  """(the workdir of a training with the checkpoints 2 and 4, the arguments that resume it)."""
  root = tmp_path_factory.mktemp('trained')
  data = root / 'datasets'
  shutil.copytree(puppets, data)
  config = workdirs.config_of(speech_edit, data, log_every=1, checkpoint_every=2, keep_checkpoints=3, steps=4)
  save(config, root / 'config.py')
  train.train(config, str(root / 'run'))
  return root


def save(config, path: pathlib.Path) -> None:
  """Writes a config as the file that --config names."""
  lines = ('import json, ml_collections', 'def get_config():', '  return ml_collections.ConfigDict(json.loads(TEXT))')
  path.write_text('\n'.join((f'TEXT = {config.to_json()!r}', *lines)))


def flip(path: pathlib.Path, part: float = 0.5) -> None:
  data = bytearray(path.read_bytes())
  data[int(part * (len(data) - 1))] ^= 0x10
  path.write_bytes(data)


def cut(path: pathlib.Path, part: float = 0.5) -> None:
  path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


def put(content) -> callable:
  """What replaces a file, or makes a folder with None."""

  def change(path: pathlib.Path) -> None:
    if path.is_dir():
      shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)

  return change


def edit(**changes) -> callable:
  """What changes keys of a JSON file; None removes one."""

  def change(path: pathlib.Path) -> None:
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

  return change


def largest(folder: pathlib.Path) -> pathlib.Path:
  return max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def remove(path: pathlib.Path) -> None:
  shutil.rmtree(path) if path.is_dir() else path.unlink()


# (what is damaged in the workdir, how)
CONFIGS = [
  *(put(x) for x in (b'', b'{', b'[]', b'null', b'\xff\xfe', b'{}', None, b'{"a":' * 5000)),
  *(edit(system=x) for x in ('x', '', 3, None, 'os.path', '../emo')),
  *(edit(**{k: None}) for k in ('model', 'size', 'data', 'sampler', 'diffusion', 'audio')),
  *(edit(size=x) for x in ('x', -1, 10**30, [], 33)),
  *(edit(**x) for x in ({'model': {'width': -1}}, {'sampler': {'name': 'x'}}, {'dtype': 'x'})),
]
ITEMS = [
  *((f'checkpoints/4/{item}', lambda path: flip(largest(path))) for item in ('params', 'ema', 'training', 'iterator')),
  *((f'checkpoints/4/{item}', lambda path: cut(largest(path))) for item in ('params', 'ema', 'training', 'run')),
  *((f'checkpoints/4/{item}', remove) for item in ('params', 'ema', 'training', 'iterator', 'run')),
  *((f'checkpoints/4/{name}', put(b'\xff')) for name in ('_CHECKPOINT_METADATA', 'params/_METADATA')),
  ('checkpoints/4/ema/manifest.ocdbt', put(b'\xff')),
]
DAMAGE = [
  *(('config.json', change) for change in CONFIGS),
  *ITEMS,
  ('checkpoints/4', put(None)), ('checkpoints/4', put(b'')), ('checkpoints', put(None)), ('checkpoints', put(b'x')),
  ('checkpoints/9', put(None)), ('checkpoints/x', put(None)), ('checkpoints/-1', put(None)),
  ('checkpoints/4.orbax-checkpoint-tmp-1', put(None)),
  *(('digests/4.json', put(x)) for x in (b'', b'[', b'[1]', b'{"a": 1}', b'\xff', None)),
  *(('metrics.jsonl', put(x)) for x in (b'\xff\n7\n{"step": 1e400}', None)),
  *(('lock', put(x)) for x in (b'\xff', b'{"host": 3, "process": "x"}', None)),
  ('parameters.txt', put(None)), ('tensorboard', put(b'')), ('samples', put(b'')), ('discarded', put(b'')),
]  # fmt: skip


def reader(name: str, number: int) -> str:
  """The command that reads a part of a workdir; several of them in turn."""
  first, _, item = name.partition('/4/')
  if first.startswith('checkpoints') and item.startswith('ema'):
    return 'generate'
  if item or not first.startswith(('config', 'checkpoints', 'digests')):
    return 'train'
  return ('generate', 'train', 'evaluate')[number % 3]


@pytest.mark.parametrize('digests', [True, False])
def test_workdirs(attempts, media, trained, digests):
  commands = {
    'generate': [f'--video={media["talk.mp4"]}', f'--audio={media["sound.wav"]}', '--output={out}/a.mp4'],
    'evaluate': ['--limit=1', '--output={out}/a.json'],
    'train': [f'--config={trained}/config.py', '--config.steps=6'],
  }
  for number, (name, change) in enumerate(DAMAGE if digests else ITEMS):
    run = attempts.inputs / 'run'
    shutil.copytree(trained / 'run', run)
    if not digests:
      shutil.rmtree(run / 'digests')
    change(run / name)
    command = reader(name, number)
    arguments = f'--workdir={run}', *commands[command]
    if name != 'discarded':
      attempts.make(KIND, command, *arguments, cached=False, writes=command == 'train')
    if command == 'train' and (name == 'discarded' or name.startswith('checkpoints/4/') and number % 5 == 0):
      works = name != 'discarded' or None
      attempts.make(KIND, 'train', *arguments, '--resume_from=2', writes=True, works=works)
    assert name == 'checkpoints' or (run / 'checkpoints/2').is_dir()
    remove(run)
  attempts.check(KIND, 10)


@pytest.mark.parametrize('name', ['joint_av', 'renderer', 'lip_expert'])
def test_joined_workdirs(attempts, models, puppets, tmp_path, name):
  """joint_av's own workdir and its renderer; the lip expert that a training of fd2talk starts from."""
  params = lambda change: ('checkpoints/0/params', lambda path: change(largest(path)))
  of_configs = [*(('config.json', put(x)) for x in (b'', b'{', b'[]', None)), ('config.json', remove)]
  of_weights = [params(flip), params(cut), params(remove), ('checkpoints/0', put(None)), ('digests/0.json', put(b'['))]
  own = [
    *(('config.json', edit(joined=x)) for x in ({}, 3, [], {'renderer': {}}, {'renderer': {'system': 'x'}}, None)),
    *(('config.json', edit(joins=x)) for x in (3, ['nothing'], [3], None)),
    *(('config.json', edit(**x)) for x in ({'captions': []}, {'captions': 3}, {'space': {}}, {'others': None})),
    *(('config.json', edit(guidance=x)) for x in ({}, {'overlap': -1}, 3)),
    params(flip), params(cut), ('checkpoints/0', put(None)),
  ]  # fmt: skip
  renderer = [*(('config.json', edit(**x)) for x in ({'system': 'emo'}, {'size': -1}, {'morphable': {}}, {'model': 3}))]
  data, file = tmp_path / 'datasets', tmp_path / 'motion.py'
  shutil.copytree(puppets, data)
  made_up_face.write_cache(data)
  save(workdirs.config_of(fd2talk, data, 'tiny,stage=1', **workdirs.NEWER['fd2talk.py:tiny,stage=1']), file)
  speak = ('--caption=A man is talking', '--seconds=0.4', '--output={out}/a.mp4')
  command, *arguments = {
    'joint_av': ('generate', '--workdir={}', *speak),
    'renderer': ('generate', f'--workdir={models["joint_av"]}', '--renderer={}', *speak),
    'lip_expert': ('train', f'--config={file}', '--config.lip_expert={}', '--workdir={out}/run'),
  }[name]
  damage = {
    'joint_av': own,
    'renderer': [*of_configs, *of_weights, *renderer],
    'lip_expert': [*of_configs, *of_weights, ('config.json', edit(morphable={})), ('config.json', edit(system='emo'))],
  }[name]
  run = attempts.inputs / 'run'
  for works, (path, change) in ((True, ('', lambda path: None)), *((None, each) for each in damage)):
    shutil.copytree(models[name], run)
    change(run / path)
    words = [a.replace('{}', str(run)) for a in arguments]
    attempts.make(JOINED, command, *words, cached=False, works=works, writes=command == 'train')
    remove(run)
  attempts.check(JOINED, 10)


def test_shards_and_caches(attempts, trained):
  """Shards of the corpus, descriptions of it, cached coefficients and the morphable model."""
  clean = trained / 'clean'
  shutil.copytree(trained / 'datasets', clean)
  made_up_face.write_cache(clean)
  (folder,) = (p.parent for p in clean.rglob('dataset_info.json'))
  shard = next(p.name for p in folder.iterdir() if 'train' in p.name and 'array_record' in p.name)
  config = workdirs.config_of(workdirs.lip_expert, trained / 'datasets', log_every=1, checkpoint_every=100, steps=12)
  save(config, trained / 'expert.py')
  rows = 'mesh_pca/coefficients-train-00000.f16'
  (states,) = (p.name for p in folder.iterdir() if p.name.startswith('speech_encoder_'))
  damage = [
    *((shard, lambda path, part=part: flip(path, part)) for part in (0, 0.3, 1)),
    *((shard, lambda path, part=part: cut(path, part)) for part in (0.1, 0.99)),
    (shard, remove), (shard, put(b'x' * 100_000)), (shard, put(None)),
    *(('dataset_info.json', x) for x in (put(b''), put(b'{'), put(b'[]'), put(b'{}'), edit(splits=[]), flip, remove)),
    *(('features.json', x) for x in (put(b''), put(b'{'), put(b'[]'), put(b'{}'), flip, remove)),
    *((rows, lambda path, part=part: flip(path, part)) for part in (0, 0.3, 1)),
    *((rows, x) for x in (cut, remove, put(b''), put(None), lambda path: put(b'\xff' * path.stat().st_size)(path))),
    *(('mesh_pca/coefficients.json', x) for x in (put(b''), put(b'{'), put(b'[]'), put(b'{}'), edit(splits={}), flip)),
    *(('mesh_pca/coefficients.json', edit(**{k: None})) for k in ('shape', 'weights', 'clips_a_file', 'corpus')),
    *(('mesh_pca/coefficients.json', edit(**x)) for x in ({'shape': [-1]}, {'clips_a_file': 0}, {'shape': 'x'})),
    *(('mesh_pca/model.json', x) for x in (put(b''), put(b'{'), put(b'[]'), edit(fingerprint='x'), remove)),
    *(('mesh_pca/model.npz', x) for x in (put(b''), flip, cut, remove)),
    *((f'{states}/speech-train-00000.f16', x) for x in (flip, cut, remove, put(b''), put(None))),
    *((f'{states}/speech.json', x) for x in (put(b''), put(b'{'), put(b'[]'), edit(splits={}), edit(shape=[-1]))),
  ]  # fmt: skip
  for number, (name, change) in enumerate(damage):
    shutil.rmtree(trained / 'datasets')
    shutil.copytree(clean, trained / 'datasets')
    path = trained / 'datasets' / (folder / name).relative_to(clean)
    if not path.exists():
      path = next(p for p in path.parent.iterdir() if p.suffix == path.suffix)
    change(path)
    which = 'expert.py' if 'mesh_pca' in name else 'config.py'
    outcome = attempts.make(SHARDS, 'train', f'--config={trained}/{which}', '--workdir={out}/run', writes=True)
    if which == 'config.py' and number % 6 == 0:
      run = f'--workdir={trained}/run'
      attempts.make(SHARDS, 'evaluate', run, '--limit=1', '--split=train', '--output={out}/a.json', cached=False)
    if outcome.code == 0 and os.path.getsize(path) and 'f16' in name:
      attempts.problems.append(f'{name}: damage was not noticed')
  attempts.check(SHARDS, 30)
