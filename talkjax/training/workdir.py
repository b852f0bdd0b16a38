"""The workdir of a run and its config.json.

A workdir holds `config.json`, `metrics.jsonl`, `checkpoints/`, `samples/` and TensorBoard's files.
"""

import json

import ml_collections
from etils import epath

from talkjax.errors import UserError

# Keys that may change when a run resumes: its length and its intervals of logging and saving.
FREE_KEYS = ('steps', 'log_every', 'checkpoint_every', 'sample_every', 'keep_checkpoints')
# A value of keys that name a workdir of weights (init_from, pretrained.NAME, audio.weights): random weights are meant.
RANDOM = 'random'
_WRITTEN = ('metrics.jsonl', 'parameters.txt', 'tensorboard', 'samples', 'digests')
# Keys of earlier versions and their names now; and keys that earlier versions did not have, by system or by
# system and stage.
_RENAMED = {
  'audio.encoder': 'audio.wav2vec2',
  'data.encoded': 'data.feature_cache',
  'diffusion.linear_end': 'diffusion.end',
  'diffusion.linear_start': 'diffusion.start',
  'foundation': 'pretrained_network',
  'foundations': 'pretrained',
  'pretrained.wav2vec2': 'audio.weights',
  'augment.hidden_mouth': 'aids.hidden_mouth',
  'diffusion.prior': 'aids.prior',
  'latents.change': 'aids.residual_scale',  # which is no key any more, see _upgrade_reference
  'latents.residual_scale': 'aids.residual_scale',
  'weights': 'context_scales',
  'windows.budget': 'windows.batch_size',
  'windows.kept': 'windows.cache_mib',
}
_AUDIO = {'audio.weights': '', 'audio.wav2vec2': {}, 'audio.speech_encoder': {}}
_PORTRAIT = {'framing': 0.0, 'diffusion.huber': 0.0, 'aids.reference': 'none', 'aids.modulation': False, **_AUDIO}
_ADDED = {
  'emo': {'diffusion.noise_offset': 0.0, **_PORTRAIT},
  'vexpress': _PORTRAIT,
  'joint_av': {'space.ends': False},
  'caption_classifier': {'space.ends': False},
  ('fd2talk', 3): {'framing': 0.0, 'diffusion.huber': 0.0, 'aids.reference': 'none', 'aids.hidden_mouth': 0.0},
  'speech_edit': {'diffusion.zero_snr': False, 'sampler.spacing': 'trailing', 'audio.kind': 'mel', **_AUDIO},
}
# Keys of earlier versions, and entries of lists, that are gone: encoders need not be listed to be frozen or loaded.
_REMOVED = ('audio.context',)
_GONE = {'train': ('^autoencoder/', '^wav2vec2/'), 'load': ('wav2vec2',), 'init_new': ('^wav2vec2/',)}


def is_workdir(value: str) -> bool:
  """Whether the value of such a key names a workdir, instead of nothing ('') or random weights."""
  return value not in ('', RANDOM)


def write_config(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
  """Writes config.json, or checks that an existing one is equal (except FREE_KEYS).

  Raises:
    UserError: the workdir has another config, and the message names the keys that differ; or it is none, but has
      files of the names that a run writes.
  """
  path = workdir / 'config.json'
  new = json.loads(config.to_json())
  if path.exists():
    old, now = flatten(upgrade(_read(path))), flatten(new)
    keys = sorted(k for k in old.keys() | now.keys() if old.get(k) != now.get(k) and k not in FREE_KEYS)
    if keys:
      shown = ', '.join(f'{k} ({old.get(k, "absent")} there, {now.get(k, "absent")} here)' for k in keys[:6])
      more = f' and {len(keys) - 6} more' if len(keys) > 6 else ''
      raise UserError(
        f'workdir {workdir} belongs to another config, these keys differ: {shown}{more}; '
        'choose another --workdir or set the keys back'
      )
  elif not (workdir / 'checkpoints').exists() and (found := [n for n in _WRITTEN if (workdir / n).exists()]):
    raise UserError(
      f'{workdir} has {", ".join(found)}, which a run would replace, but no config.json: choose another --workdir'
    )
  workdir.mkdir(parents=True, exist_ok=True)
  temporary = workdir / 'config.json.tmp'
  temporary.write_text(json.dumps(new, indent=2, sort_keys=True) + '\n')
  temporary.replace(path)


def read_config(workdir) -> ml_collections.ConfigDict:
  """The resolved config of a workdir.

  Raises:
    UserError: the workdir does not exist, or its config is missing or damaged.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.exists():
    raise UserError(
      f'{workdir} is not a workdir (it has no config.json): expected the --workdir of a training run or a conversion'
    )
  return ml_collections.ConfigDict(upgrade(_read(path)))


def read_system_config(workdir) -> ml_collections.ConfigDict:
  """The resolved config of a system's workdir.

  Raises:
    UserError: as `read_config`, or the workdir is not of a system.
  """
  config = read_config(workdir)
  if not isinstance(config.get('system'), str):
    network = config.get('pretrained_network')
    what = f'has the pretrained network {network}' if network else 'has a config.json that names no system'
    raise UserError(f'{workdir} {what}: expected the --workdir of a training run, or of a converted system')
  return config


def _read(path: epath.Path) -> dict:
  try:
    config = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:  # not JSON, not even text, or a folder
    raise UserError(f'{path} is damaged ({error}): restore it from a copy, or choose another workdir') from error
  if not isinstance(config, dict):
    raise UserError(f'{path} is damaged (it is no JSON object): restore it from a copy, or choose another workdir')
  return config


def upgrade(config: dict) -> dict:
  """The config of a workdir that an earlier version wrote, and of those inside it, with today's keys (in place)."""
  for old, new in _RENAMED.items():
    if _has(config, old):
      node, key = _node(config, old)
      value = node.pop(key)
      node, key = _node(config, new, create=True)
      node[key] = value
  for path in _REMOVED:
    if _has(config, path):
      node, key = _node(config, path)
      del node[key]
  for key, gone in _GONE.items():
    if key in config:
      config[key] = [entry for entry in config[key] if (entry if isinstance(entry, str) else entry[0]) not in gone]
  _upgrade_reference(config)
  system, stage = config.get('system'), config.get('stage')
  for path, value in {**_ADDED.get(system, {}), **_ADDED.get((system, stage), {})}.items():
    parent = path.rpartition('.')[0]
    if _has(config, parent or 'latents'):
      node, key = _node(config, path)
      node.setdefault(key, value)
  joined = config.get('joined')
  for own in joined.values() if isinstance(joined, dict) else ():
    if isinstance(own, dict):
      upgrade(own)
  return config


def _upgrade_reference(config: dict) -> None:
  """`aids.reference` in place of the keys that earlier versions had for it."""
  aids = config.get('aids')
  keys = ('residual_scale', 'overlay', 'flow')
  if not isinstance(aids, dict) or not any(key in aids for key in keys):
    return
  scale, overlay, flow = (aids.pop(key, 0) for key in keys)
  kind = config['latents'].get('kind') if isinstance(config.get('latents'), dict) else None
  known = 1.5 if kind == 'vae' else 6.0
  if scale not in (0, known):
    raise UserError(
      f'config.aids.residual_scale={scale}: it is {known} now in these latents, so train this network again, or use '
      'the earlier version that trained it'
    )
  if overlay and aids.get('modulation') and config.get('system') != 'fd2talk':
    raise UserError(
      f'config.aids.overlay={overlay}: an earlier version trained this small network, whose modulation did not know '
      'how faces have turned: train it again, or use that version'
    )
  aids['reference'] = 'flow' if flow else 'overlay' if overlay else 'concatenated' if scale else 'none'


def _has(config: dict, path: str) -> bool:
  parent, _, rest = path.partition('.')
  return parent in config and (not rest or (isinstance(config[parent], dict) and _has(config[parent], rest)))


def _node(config: dict, path: str, create: bool = False) -> tuple[dict, str]:
  """The dict that holds a key 'a.b', and the key in it."""
  *parents, key = path.split('.')
  for parent in parents:
    config = config.setdefault(parent, {}) if create else config[parent]
  return config, key


def flatten(tree: dict, prefix: str = '') -> dict:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  flat = {}
  for key, value in tree.items():
    flat.update(flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value})
  return flat
