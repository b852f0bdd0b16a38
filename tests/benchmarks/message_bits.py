"""Bits per second of a message beside those of the video that it makes, coded as H.264 and AAC.

  python -m tests.benchmarks.message_bits --workdir=runs/joint [--text="place blue at F nine now"] [--wav2lip=DIR]

The video is coded at rising constant rate factors. The lowest quality that keeps the mouth is the last at which the
openings that are measured in the coded frames correlate with those in the generated ones by KEPT or more.
"""

import argparse
import io

import av
import numpy as np

import talkjax
from talkjax import message
from talkjax.metrics import joint
from talkjax.metrics.footage import from_frames

KEPT = 0.9
FACTORS = (8, 13, 18, 23, 28, 33, 38, 43, 48)
AAC = 24_000  # bits per second


def coded(frames: np.ndarray, fps: float, sound: np.ndarray, factor: int) -> tuple[int, np.ndarray]:
  """(bytes of the file, its frames)."""
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    video = container.add_stream('libx264', rate=round(fps), options={'crf': str(factor), 'preset': 'veryslow'})
    video.height, video.width, video.pix_fmt = *frames.shape[1:3], 'yuv420p'
    audio = container.add_stream('aac', rate=16_000, layout='mono', bit_rate=AAC)
    for frame in frames:
      container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(video.encode())
    samples = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format='fltp', layout='mono')
    samples.sample_rate = 16_000
    container.mux(audio.encode(samples))
    container.mux(audio.encode())
  size = buffer.tell()
  buffer.seek(0)
  with av.open(buffer) as container:
    return size, np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--text', default='place blue at F nine now')
  parser.add_argument('--wav2lip', default='')
  args = parser.parse_args()
  pipeline = talkjax.load(args.workdir)
  given = {'text': args.text, 'caption': pipeline.config.captions[-1]}
  made = pipeline.generate(**given, **({'wav2lip': args.wav2lip} if args.wav2lip else {}))
  seconds = len(made.frames) / made.fps
  size = len(message.encode(given, 0, pipeline.fingerprint, pipeline.options.values()).encode())
  print(f'{seconds:.2f} s; the message has {size} bytes: {8 * size / seconds:.0f} bits per second')
  opening = lambda frames: joint.mouth(from_frames('', list(frames), made.fps, None), 'found')
  true = opening(made.frames)
  for factor in FACTORS:
    size, frames = coded(made.frames, made.fps, made.sound, factor)
    kept = joint.correlation(opening(frames), true)
    print(f'H.264 at {factor}, AAC: {8 * size / seconds:.0f} bits per second, openings {kept:.3f}', flush=True)
    if not kept >= KEPT:
      break


if __name__ == '__main__':
  main()
