"""Media of a puppet: whole ones, damaged ones, and ones that somebody made to do harm."""

import fractions
import io
import json
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import av
import cv2
import numpy as np
import soundfile
from PIL import Image

import talkjax
from talkjax import message
from talkjax.corpora.coefficients import fingerprint
from talkjax.corpora.records import Record
from talkjax.media import video
from talkjax.systems import coefficients
from talkjax.systems.fd2talk import motion_files
from tests import torch_file

FRAMES, SIDE = 8, 128


def write_whole(folder: pathlib.Path, record: Record) -> dict[str, pathlib.Path]:
  """Writes the same clip in several containers, its sound, its first frame and its keypoints; returns paths by name."""
  frames = [cv2.resize(record.frame(i), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for i in range(FRAMES)]
  sound = record.audio[: FRAMES * 640].astype(np.float32) / 32768
  with video.VideoWriter(folder / 'talk.mp4', 25, (SIDE, SIDE), sound) as writer:
    for frame in frames:
      writer.write(frame)
  for name in ('talk.mkv', 'talk.ts', 'talk.mov'):
    _remux(folder / 'talk.mp4', folder / name)
  for name in ('sound.wav', 'sound.flac', 'sound.ogg', 'sound.mp3'):
    soundfile.write(folder / name, sound, 16_000)
  for name in ('portrait.png', 'portrait.jpg', 'portrait.webp', 'portrait.bmp', 'portrait.tif'):
    assert cv2.imwrite(str(folder / name), cv2.cvtColor(frames[0], cv2.COLOR_RGB2BGR))
  Image.fromarray(frames[0]).save(folder / 'portrait.gif')
  points = np.array([[180, 230], [330, 230], [256, 300]], np.float32) + np.arange(20)[:, None, None]
  np.save(folder / 'points.npy', points.astype(np.float32))
  torch_file.save(folder / 'points.pth', points.astype(np.float32))
  return {path.name: path for path in folder.iterdir()}


def _remux(source: pathlib.Path, target: pathlib.Path) -> None:
  with av.open(str(source)) as read, av.open(str(target), 'w') as write:
    streams = {stream: write.add_stream_from_template(stream) for stream in read.streams}
    for packet in read.demux():
      if packet.dts is not None:
        packet.stream = streams[packet.stream]
        write.mux(packet)


def write_motion(folder: pathlib.Path, params, config) -> pathlib.Path:
  """A motion file that fits a workdir of fd2talk."""
  model = coefficients.numpy_model_of(params, config)
  zeros = np.zeros((2 * FRAMES, 3), np.float32)
  motion = motion_files.Motion(np.zeros((2 * FRAMES, config.morphable.expression)), zeros, zeros, config.fps)
  path = folder / 'motion.npz'
  motion_files.write(str(path), motion, model.name, fingerprint(model))
  return path


def write_message(folder: pathlib.Path, workdir: pathlib.Path) -> pathlib.Path:
  """A message to a workdir of joint_av."""
  loaded, path = talkjax.load(workdir), folder / 'message.json'
  given = {'caption': loaded.config.captions[0], 'seconds': 0.4, 'guidance': 1.0}
  message.save(str(path), message.encode(given, 3, loaded.fingerprint, loaded.options.values()))
  return path


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
  """A file in which bits are flipped, or bytes are cut, removed, repeated, moved or made large numbers."""
  data = bytearray(data)
  for _ in range(generator.integers(1, 5)):
    head = generator.random() < 0.5  # headers are short and matter most
    at = int(generator.integers(0, min(len(data), 256) if head else max(1, len(data))))
    count = int(generator.integers(1, 33))
    match generator.integers(0, 8):
      case 0 | 1 | 2:
        for i in generator.integers(0, max(1, len(data) if not head else min(len(data), 256)), count):
          data[i : i + 1] = bytes([(data[i : i + 1] or b'\0')[0] ^ 1 << int(generator.integers(0, 8))])
      case 3:
        del data[max(16, at) :]
      case 4:
        del data[at : at + count]
      case 5:
        data[at:at] = data[at : at + 4096]
      case 6:
        data[at : at + 4] = [b'\xff\xff\xff\xff', b'\x7f\xff\xff\xff', b'\0\0\0\0', b'\x80\0\0\0'][count % 4]
      case 7:
        other = int(generator.integers(0, max(1, len(data))))
        data[at : at + count], data[other : other + count] = data[other : other + count], data[at : at + count]
  return bytes(data)


# Crafted sound.


def wav(
  samples: bytes, *, kind: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, size: int | None = None
) -> bytes:
  """A WAV file with any numbers in its header."""
  width = channels * bits // 8
  head = struct.pack('<HHIIHH', kind, channels % 65536, rate, (rate * width) % (1 << 32), width % 65536, bits)
  size = len(samples) if size is None else size
  body = b'WAVEfmt ' + struct.pack('<I', len(head)) + head + b'data' + struct.pack('<I', size) + samples
  return b'RIFF' + struct.pack('<I', (len(body)) % (1 << 32)) + body


def sounds() -> Iterator[tuple[str, bytes]]:
  """WAV files that lie or whose samples make no sense, by name."""
  tone = (8000 * np.sin(np.arange(4800) / 5)).astype('<i2').tobytes()
  numbers = np.sin(np.arange(4800) / 5).astype('<f4')
  for rate in (0, 1, 999, 2**31 - 1, 2**32 - 1):
    yield f'rate_{rate}.wav', wav(tone, rate=rate)
  for channels in (0, 65, 255, 65535):
    yield f'channels_{channels}.wav', wav(tone, channels=channels)
  for bits in (0, 1, 7, 65535):
    yield f'bits_{bits}.wav', wav(tone, bits=bits)
  for kind in (0, 2, 3, 0x11, 0x55, 0xFFFE):
    yield f'kind_{kind}.wav', wav(tone, kind=kind)
  for size in (0, 1, 2**31 - 1, 2**32 - 1):
    yield f'size_{size}.wav', wav(tone, size=size)
  for name, value in (('nan', np.nan), ('inf', np.inf), ('huge', 3e38)):
    odd = numbers.copy()
    odd[100] = value
    yield f'{name}.wav', wav(odd.tobytes(), kind=3, bits=32)
  yield 'one_sample.wav', wav(tone[:2])
  yield 'no_sample.wav', wav(b'')
  yield 'empty.wav', b''


# Crafted pictures.


def png(width: int, height: int, data: bytes = b'', before: bytes = b'', colour: int = 2) -> bytes:
  """A PNG file with any size in its header."""
  chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
  head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, colour, 0, 0, 0))
  return b'\x89PNG\r\n\x1a\n' + head + before + chunk(b'IDAT', zlib.compress(data)) + chunk(b'IEND', b'')


def pictures(portrait: bytes) -> Iterator[tuple[str, bytes]]:
  """Pictures that claim to be large, or are text, by name; `portrait` is a JPEG."""
  text = struct.pack('>I', 8) + b'tEXt' + b'a\0b\0c\0d\0' + struct.pack('>I', 0)  # of a wrong checksum
  bomb = b'zTXt' + b'a\0\0' + zlib.compress(bytes(200 << 20), 9)
  for width, height in ((60_000, 60_000), (2**31 - 1, 1), (0, 10), (30_000, 30_000), (1, 1)):
    yield f'size_{width}_{height}.png', png(width, height, bytes(1000))
  yield 'large_behind_wrong_text.png', png(30_000, 30_000, bytes(1000), before=text)
  yield 'text_bomb.png', png(8, 8, bytes(8 * 25), before=struct.pack('>I', len(bomb) - 4) + bomb + b'\0\0\0\0')
  yield 'palette.png', png(8, 8, bytes(8 * 9), colour=3)
  yield 'grey.png', png(8, 8, bytes(8 * 9), colour=0)
  start = portrait.index(b'\xff\xc0') + 5
  yield 'large.jpg', portrait[:start] + struct.pack('>HH', 65_500, 65_500) + portrait[start + 4 :]
  yield 'half.jpg', portrait[: len(portrait) // 2]
  yield 'large.gif', b'GIF89a' + struct.pack('<HH', 65_535, 65_535) + b'\x80\0\0' + bytes(6) + b',' + bytes(8) + b'\0;'
  head = struct.pack('<IiiHHIIiiII', 40, 60_000, -60_000, 1, 24, 0, 0, 0, 0, 0, 0)
  yield 'large.bmp', b'BM' + struct.pack('<IHHI', 54 + 12, 0, 0, 54) + head + bytes(12)
  yield 'loop.tif', b'II*\0' + struct.pack('<IH', 8, 1) + struct.pack('<HHII', 256, 4, 1, 50_000) + struct.pack('<I', 8)
  entity = ''.join(f'<!ENTITY x{i + 1} "{f"&x{i};" * 10}">' for i in range(12))
  yield 'bomb.svg', f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x0 "x">{entity}]><svg>&x12;</svg>'.encode()
  yield 'text.png', b'not a picture'
  yield 'empty.png', b''


# Crafted videos.


def videos(folder: pathlib.Path, face: np.ndarray) -> Iterator[tuple[str, Callable[[pathlib.Path], None]]]:
  """By name, what writes a video that is not as videos are; `face` is a frame."""
  grey = np.full((SIDE, SIDE, 3), 90, np.uint8)
  second = fractions.Fraction(1, 90_000)
  yield 'no_face.mp4', lambda path: encode(path, [grey] * 5)
  yield 'one_frame.mp4', lambda path: encode(path, [face])
  yield 'a_million_a_second.mkv', lambda path: encode(path, [face] * 30, rate=1_000_000)
  yield 'times_far_apart.mkv', lambda path: encode(path, [face] * 4, times=[0, 1, 1 << 40, 1 << 41], base=second)
  yield 'one_time.mkv', lambda path: encode(path, [face] * 4, times=[5, 5, 5, 5], base=second)
  yield 'negative_times.mkv', lambda path: encode(path, [face] * 4, times=[-9000, -5400, -1800, 1800], base=second)
  yield 'huge_frames.mov', lambda path: encode(path, [np.zeros((12_000, 12_000, 3), np.uint8)], codec='png')
  yield 'tiny_frames.mov', lambda path: encode(path, [face[:1, :1]] * 4, codec='png')
  yield 'a_line.mov', lambda path: encode(path, [face[:1]] * 4, codec='png')
  yield 'two_sizes.ts', lambda path: _two_sizes(folder, path, face)
  yield 'no_frames.mp4', lambda path: _without(folder, path, b'stsz')
  yield 'no_index.mp4', lambda path: _without(folder, path, b'moov')
  yield 'box_of_boxes.mp4', lambda path: path.write_bytes(_nested(5000))
  yield 'empty.mp4', lambda path: path.write_bytes(b'')
  yield 'zeros.mp4', lambda path: path.write_bytes(bytes(100_000))


def encode(path, frames, codec='libx264', rate=25, times=None, base=None) -> None:
  """Writes frames [h, w, 3] with any times."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = kind = 'rgb24' if codec == 'png' else 'yuv444p'
    if base:
      stream.codec_context.time_base = base
    for i, pixels in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format='rgb24').reformat(format=kind)
      frame.pts = times[i] if times else i
      frame.time_base = base or fractions.Fraction(1, rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _two_sizes(folder: pathlib.Path, path: pathlib.Path, face: np.ndarray) -> None:
  parts = []
  for side in (SIDE, SIDE // 2):
    encode(folder / 'part.ts', [cv2.resize(face, (side, side))] * 5)
    parts.append((folder / 'part.ts').read_bytes())
  (folder / 'part.ts').unlink()
  path.write_bytes(b''.join(parts))


def _without(folder: pathlib.Path, path: pathlib.Path, box: bytes) -> None:
  path.write_bytes((folder / 'talk.mp4').read_bytes().replace(box, b'free', 1))


def _nested(depth: int) -> bytes:
  data = b''
  for _ in range(depth):
    data = struct.pack('>I', len(data) + 8) + b'moov' + data
  return b'\0\0\0\x14ftypisom\0\0\2\0isom' + data


# Crafted arrays.


def keypoint_files() -> Iterator[tuple[str, bytes]]:
  """.npy files without keypoints, by name."""
  points = np.ones((9, 3, 2), np.float32)
  saved = lambda values: _saved(lambda file: np.save(file, values, allow_pickle=True))
  head = lambda text: b'\x93NUMPY\x01\0' + struct.pack('<H', len(text)) + text.encode()
  yield 'objects.npy', saved(np.array([{}, 1], object))
  yield 'nan.npy', saved(points * np.nan)
  yield 'none.npy', saved(points[:0])
  yield 'flat.npy', saved(points.ravel())
  yield 'one_number.npy', saved(np.float32(1))
  yield 'text.npy', saved(np.full((9, 3, 2), 'x'))
  yield 'complex.npy', saved(points * 1j)
  yield 'structured.npy', saved(np.zeros((9, 3, 2), [('a', 'f4')]))
  yield 'times.npy', saved(np.zeros((9, 3, 2), 'datetime64[s]'))
  yield 'one_place.npy', saved(points)
  yield 'far.npy', saved(points * np.float32(1e30))
  for i, shape in enumerate(('(1099511627776, 3, 2)', '(-1, 3, 2)', '(9, 3, 2', '(9223372036854775807, 2)', '9', 'x')):
    yield f'head_{i}.npy', head(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n")
  yield 'code.npy', head("{'descr': __import__('os').getcwd(), 'fortran_order': 0, 'shape': ()}\n")
  yield 'brackets.npy', head('(' * 60_000)
  yield 'empty.npy', b''


def messages() -> Iterator[tuple[str, bytes]]:
  """JSON files that are no messages, or say what no option should have, by name."""
  texts = ('', '{', '[]', 'null', '{}', '{"weights": 3}', '[' * 90_000, '{"a":' * 20_000, '\ufeff{"weights": "x"}')
  values = (
    *('"seed": -1', '"seed": 1e99', '"seed": "x"', '"seed": true', '"steps": 0', '"steps": 1e5', '"steps": null'),
    *('"guidance": NaN', '"guidance": 1e999', f'"guidance": 1{"0" * 400}', f'"seconds": {"9" * 5000}', '"seconds": 0'),
    *('"image": "/etc/passwd"', '"text": ""', r'"text": "\ud800 a"', f'"text": "{"a" * 50_000}"', '"text": 3'),
    *('"caption": "x"', r'"caption": "\u001b[2J"', '"text": "a", "seconds": 1', '"speech_engine": "x"', '"nothing": 1'),
  )
  for i, text in enumerate((*texts, *(f'{{"weights": "x", {value}}}' for value in values))):
    yield f'message_{i}.json', text.encode()


def motion_file_variants(whole: bytes) -> Iterator[tuple[str, bytes]]:
  """.npz files that are no motion, by name; `whole` is one."""
  with np.load(io.BytesIO(whole)) as file:
    values = dict(file)
  changes = {
    'rates.npz': {'fps': np.ones(3)},
    'text_rate.npz': {'fps': np.array('x')},
    'complex_rate.npz': {'fps': np.complex64(1)},
    'nan_rate.npz': {'fps': np.float32(np.nan)},
    'no_frames.npz': {k: values[k][:0] for k in ('expression', 'angles', 'translation')},
    'not_finite.npz': {'angles': values['angles'] * np.nan},
    'text.npz': {'expression': np.full(values['expression'].shape, 'x')},
    'one_number.npz': {'expression': np.float32(1)},
    'model_of_bytes.npz': {'model': np.array([b'a', b'b'])},
    'escape.npz': {'model': np.array('\x1b[2J' * 500)},
    'far.npz': {'translation': values['translation'] + np.float32(1e38)},
    'turned.npz': {'angles': values['angles'] + 1e20},
  }
  for name, change in changes.items():
    yield name, _saved(lambda file, change=change: np.savez(file, **{**values, **change}))
  yield 'short.npz', _saved(lambda file: np.savez(file, **{k: v for k, v in values.items() if k != 'fps'}))
  yield 'objects.npz', _saved(lambda file: np.savez(file, **{**values, 'model': np.array([{}], object)}))
  yield 'array.npz', _saved(lambda file: np.save(file, values['angles']))
  yield 'bomb.npz', _bomb(values)
  yield 'cut.npz', whole[: len(whole) // 2]
  yield 'text_file.npz', b'no archive'
  yield 'json.npz', json.dumps({k: v.tolist() for k, v in values.items()}).encode()


def _bomb(values) -> bytes:
  """Eight gigabytes of zeros in eight megabytes."""
  result, count = io.BytesIO(), 1 << 31
  with zipfile.ZipFile(result, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    for name, value in values.items():
      with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
        if name != 'expression':
          np.lib.format.write_array(member, value)
          continue
        np.lib.format.write_array_header_1_0(member, {'descr': '<f4', 'fortran_order': False, 'shape': (count // 4, 4)})
        for _ in range(count * 4 >> 24):
          member.write(bytes(1 << 24))
  return result.getvalue()


def _saved(write: Callable) -> bytes:
  result = io.BytesIO()
  write(result)
  return result.getvalue()
