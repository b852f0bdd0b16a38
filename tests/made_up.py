"""Made-up files for the commands in the documents: footage, media and published weights, and networks narrow enough.

Everybody in them is a puppet, and every weight is random.
"""

import contextlib
import functools
import pathlib
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import soundfile

from talkjax.corpora import records
from talkjax.media import picture, video
from talkjax.nn import wav2vec2 as wav2vec2_module
from talkjax.nn.autoencoder import Autoencoder
from talkjax.nn.coupled_unet import CoupledUNet
from talkjax.nn.deep3d import Deep3D
from talkjax.nn.latent_unet import LatentUNet, Temporal
from talkjax.nn.resnet import ResNet
from talkjax.nn.wav2lip import Wav2Lip
from talkjax.nn.wav2vec2 import Wav2Vec2
from talkjax.training import checkpoint
from talkjax.weights import latents, mm_diffusion, pretrained
from talkjax.weights.pretrained import FILES
from tests import published_files, torch_file
from tests.micro import ENCODER, random_params

# The published networks with fewer channels and blocks.
UNET = functools.partial(LatentUNet, widths=(32,), attention=(True,), layers=1)
AUTOENCODER = functools.partial(Autoencoder, widths=(32, 32))
VQGAN = Autoencoder(widths=(32, 32), latent_channels=3, layers=1, scaling=1.0, codebook=8)
WAV2VEC2 = functools.partial(Wav2Vec2, **ENCODER)
SCORING = {
  **dict.fromkeys(pretrained.SCORING, (ResNet((1,), width=2), (1, 32, 32, 3))),
  'lpips': pretrained.SCORING['lpips'],
  'wav2lip_syncnet': pretrained.SCORING['wav2lip_syncnet'],  # which wav2lip trains with
}
# The coupled U-Net with as many levels of attention between sound and picture as the published one.
COUPLED = {'width': 64, 'multipliers': (1, 1, 1, 1), 'num_res_blocks': 1}
PATCHES = (
  (pretrained, 'LatentUNet', UNET),
  (pretrained, 'Autoencoder', AUTOENCODER),
  (pretrained, 'Wav2Vec2', WAV2VEC2),
  (latents, 'Autoencoder', AUTOENCODER),
  (wav2vec2_module, 'Wav2Vec2', WAV2VEC2),
  (pretrained, 'SCORING', SCORING),
)
# What makes a config small enough, by key; a config has some of them. Batch, mesh, corpus and weights stay.
NARROW = {
  'size': 32,
  'crop_size': 0,
  'log_every': 1,
  'checkpoint_every': 1,
  'sample_every': 0,
  'optimizer.warmup': 0,
  'data.workers': 0,
  'windows.frames': 4,
  'windows.overlap': 1,
  'model.layers': 1,
  'model.num_res_blocks': 1,
  'model.width': 32,
  'model.multipliers': (1,),
  'model.attention': (True,),
  'model.widths': (32,),
  'model.locator': (8, 8, 8),
  'model.guider': (8, 8, 8),
  'model.audio_hidden': 32,
  'model.audio_features': 32,
  'model.audio_layers': 1,
  'model.audio_heads': 2,
  'model.audio_head_features': 8,
  'latents.widths': (32, 32),
}


@contextlib.contextmanager
def narrow_networks():
  """Makes the published networks as narrow as the made-up weights."""
  with contextlib.ExitStack() as stack:
    for module, name, network in PATCHES:
      stack.enter_context(mock.patch.object(module, name, network))
    yield


SMALL = ('speech_encoder', 'lip_expert', 'fd2talk')  # in `tiny`, whose networks are read by other trainings too


def narrow(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A config with smaller networks, pictures and clips; what a document's command sets otherwise stays as it is."""
  config = ml_collections.ConfigDict(config)
  flat = config.to_dict()
  if flat.get('model', {}).get('kind') == 'wav2lip':  # it has one size, and one number of frames
    config.update(log_every=1, checkpoint_every=1, sample_every=0)
    config.data.workers = 0
    return config
  if config.get('space', {}).get('kind') == 'motion':
    config.update(log_every=1, checkpoint_every=1)
    return config
  for key, value in NARROW.items():
    node = flat
    for part in key.split('.'):
      node = node.get(part) if isinstance(node, dict) else None
    if node is not None and not (config.system in SMALL and key.startswith(('model.', 'latents.'))):
      config.update_from_flattened_dict({key: value})
  if config.get('frames', 1) > 1 and config.system not in SMALL:
    config.frames = 4
  if config.system == 'joint_av':
    config.model.update(COUPLED)
  if config.system == 'speech_edit' and config.model.patch_size == 1:
    config.model.attention_downsamples = ()
  return config


def narrow_published(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config that a conversion starts from, as small as the made-up weights of `published`."""
  if config.system in ('wav2lip', 'super_resolution'):
    return config
  if config.system == 'speech_edit':
    config.update_from_flattened_dict({'size': published_files.SIZE, 'model.head_channels': 16})
  else:
    config.audio.wav2vec2 = {**ENCODER, 'layers': 1}
    config.update_from_flattened_dict(published_files.TINY)
  return config


def pretrained_params(source: str, path: str):
  """Random parameters of a narrow pretrained network; AnimateDiff's second version has a middle block."""
  rng = jax.random.key(0)
  if source == 'sd_vae':
    shapes = jax.eval_shape(AUTOENCODER().init, rng, jnp.zeros((1, 8, 8, 3)))['params']
  elif source == 'vqgan':
    shapes = pretrained.shapes_of(VQGAN, (1, 8, 8, 3))
  elif source == 'deep3d':
    shapes = pretrained.shapes_of(Deep3D((1, 1), width=2), (1, 224, 224, 3))
  elif source in pretrained.SCORING:
    shapes = pretrained.shapes_of(*pretrained.SCORING[source])
  elif source == 'wav2lip':
    shapes = pretrained.shapes_of(Wav2Lip(), (1, 80, 16, 1), (1, 96, 96, 6))
  elif source == 'mm_diffusion':
    shapes = mm_diffusion.parameter_shapes(CoupledUNet(**COUPLED))
  elif source == 'wav2vec2':
    shapes = jax.eval_shape(WAV2VEC2().init, rng, jnp.zeros((1, 800)))['params']
  else:
    temporal = Temporal('v2' in path) if source == 'animatediff' else None
    shapes = pretrained.unet_shapes(UNET(temporal=temporal))
    if temporal:
      shapes = {k: v for k, v in shapes.items() if 'motion_modules' in k}
  return jax.tree.map(np.asarray, random_params(shapes))


def published(source: str, path: pathlib.Path) -> None:
  """Writes made-up weights where a command expects the published ones: a file, or a folder."""
  if source == 'vexpress':
    published_files.write_vexpress(path, published_files.vexpress_params())
    return
  if source == 'diffusion_video_editing':
    torch_file.save(path, published_files.state_dict(0))
    return
  if source == 'super_resolution':
    torch_file.save(path, published_files.super_resolution_state())
    return
  file = path if path.suffix else path / next(name for name in FILES[source] if name.endswith(('.bin', '.ckpt')))
  file.parent.mkdir(parents=True, exist_ok=True)
  torch_file.save(file, published_files.as_published(pretrained_params(source, path.name)))


def workdir(source: str, path: pathlib.Path) -> None:
  """Makes the workdir of a converted pretrained network."""
  about = ml_collections.ConfigDict({'pretrained_network': source})
  checkpoint.save_params(path, about, pretrained_params(source, path.name), 0)


def footage(corpus: str, folder: pathlib.Path, record: records.Record) -> None:
  """Writes the clip of a puppet as clips of a corpus, in the layout of its `--manual_dir`."""
  names = {
    'grid': ['s1/bbaf2n.mpg', 's1/lgwz4s.mpg', 's3/bbaf2n.mpg'],
    'crema_d': ['VideoFlash/1001_DFA_ANG_XX.mp4', 'VideoFlash/1015_IEO_HAP_HI.mp4'],
    'hdtf': ['AdamSchiff.mp4', 'TimScott.mp4'],
    'vfhq': ['Clip+G0DGRma_p48+P0+C0+F11208-11383.mp4', 'Clip+-91nXXjrVo_+P1+C0+F1-40.mp4'],
    'voxceleb': ['dev/mp4/id00012/21Uxsk56VDQ/00001.mp4', 'test/mp4/id00017/01dfn2spqyE/00001.mp4'],
    'clips': ['a.mp4', 'b.mp4'],
  }[corpus]
  made = folder / 'made.mp4'
  clip(made, record)
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, folder / name)
  made.unlink()
  if corpus == 'grid':
    words = ('bin', 'blue', 'at', 'f', 'two', 'now')
    lines = [f'{4000 * i + 2000} {4000 * i + 6000} {word}' for i, word in enumerate(words)]
    for speaker in ('s1', 's3'):
      (folder / 'alignments' / speaker).mkdir(parents=True, exist_ok=True)
      (folder / 'alignments' / speaker / 'bbaf2n.align').write_text('\n'.join([*lines, '']))
  if corpus == 'crema_d':
    people = ['1001,51,Male,Caucasian,Not Hispanic', '1015,32,Female,African American,Not Hispanic']
    (folder / 'VideoDemographics.csv').write_text('\n'.join(['ActorID,Age,Sex,Race,Ethnicity', *people, '']))
  if corpus == 'hdtf':
    (folder / 'HDTF_dataset').mkdir()
    for what, line in (
      ('annotion_time', '{0}.mp4 00:00-00:01'),
      ('crop_wh', '{0}_0.mp4 0 256 0 256'),
      ('resolution', '{0}.mp4 256'),
    ):
      lines = [line.format(pathlib.Path(name).stem) for name in names]
      (folder / f'HDTF_dataset/WDA_{what}.txt').write_text('\n'.join([*lines, '']))


def clip(path: pathlib.Path, record: records.Record, frames: int = 30) -> None:
  """Writes the first frames of a record as a video with sound."""
  sound = record.audio[: round(frames / record.fps * 16_000)].astype(np.float32) / 32768
  with video.VideoWriter(path, record.fps, tuple(record.size), sound) as writer:
    for i in range(frames):
      writer.write(record.frame(i))


def media(path: pathlib.Path, record: records.Record) -> None:
  """Writes what the end of a file's name promises: a picture, half a second of sound, a video or keypoints."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix in ('.jpg', '.png'):
    picture.write(path, record.frame(0))
  elif path.suffix in ('.wav', '.mp3'):
    soundfile.write(path, record.audio[:8000].astype(np.float32) / 32768, 16_000)
  elif path.suffix == '.mp4':
    clip(path, record)
  elif path.suffix == '.pth':
    eyes_and_nose = np.array([[180, 230], [330, 230], [256, 300]], np.float32)
    torch_file.save(path, np.stack([eyes_and_nose + shift for shift in range(20)]))
  else:
    raise ValueError(f'{path}: a document names a file of a kind that nobody has made up yet')
