"""Videos made here with known pixels and times come back as they were; broken files give one sentence."""

import fractions
import os
import resource
import struct

import av
import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.media import audio, containers, video
from tests.hostile import media_files


def _gray(value, size=(32, 48)):
  return np.full((*size, 3), value, np.uint8)


def _picture(seed, height, width):
  """Smooth colours, so that chroma subsampling costs little."""
  rng = np.random.default_rng(seed)
  x, y = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
  waves = np.sin(rng.uniform(0, 6, 3) + rng.uniform(1, 5, 3) * x + rng.uniform(1, 5, 3) * y)
  return (127.5 + 127.5 * waves).astype(np.uint8)


def _write(path, frames, fps=25, **options):
  with video.VideoWriter(path, fps, frames[0].shape[:2], **options) as writer:
    for frame in frames:
      writer.write(frame)
  return path


def _write_at(path, milliseconds, values):
  """A video of gray frames shown at given times."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=25, options={'crf': '1', 'bf': '0'})
    stream.width, stream.height, stream.pix_fmt = 48, 32, 'yuv420p'
    stream.codec_context.time_base = stream.time_base = fractions.Fraction(1, 1000)
    for time, value in zip(milliseconds, values):
      frame = av.VideoFrame.from_ndarray(_gray(value), format='rgb24')
      frame.pts, frame.time_base = time, fractions.Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _levels(frames):
  return [int(round(f.mean())) for f in frames]


@pytest.mark.parametrize('size', [(64, 96), (63, 96), (64, 95), (63, 95)])
def test_frames_come_back_in_their_size_and_colours(tmp_path, size):
  frames = [_picture(i, *size) for i in range(5)]
  path = _write(tmp_path / 'a.mp4', frames, fps=29.97, crf=4)
  info = video.probe(path)
  assert (info.height, info.width, info.num_frames, info.has_audio, info.variable) == (*size, 5, False, False)
  assert info.fps == pytest.approx(30000 / 1001, rel=1e-6)
  read = list(video.read_frames(path))
  assert len(read) == 5
  difference = np.stack(read).astype(float) - np.stack(frames)
  assert np.abs(difference).mean() < 2
  assert np.abs(difference.mean((0, 1, 2))).max() < 0.5  # no colour comes back darker or tinted


def test_audio_is_muxed_to_the_sample(tmp_path):
  rng = np.random.default_rng(0)
  for rate, samples in ((16_000, 12_345), (44_100, 40_001), (48_000, 1)):
    sound = 0.3 * np.sin(np.arange(samples) * 2 * np.pi * 440 / rate).astype(np.float32)
    path = _write(tmp_path / f'{rate}.mp4', [_gray(90)] * 20, audio=sound, audio_rate=rate)
    read, got = audio.read_audio_native(path)
    assert (got, read.shape) == (rate, (samples, 1))
    if samples > 1000:
      assert np.corrcoef(read[:, 0], sound)[0, 1] > 0.99  # not shifted
  stereo = rng.uniform(-0.1, 0.1, (50_000, 2)).astype(np.float32)
  path = _write(tmp_path / 'stereo.mp4', [_gray(90)] * 5, audio=stereo, audio_rate=50_000)  # AAC has no 50 kHz
  read, rate = audio.read_audio_native(path)
  assert rate == 48_000 and read.shape == (48_000, 2)


def test_metadata_comes_back(tmp_path):
  tags = {'comment': '{"step": 7, "made by": "talkjax"}', 'generated': 'yes'}
  path = _write(tmp_path / 'a.mp4', [_gray(9)], metadata=tags)
  assert tags.items() <= video.read_metadata(path).items()


def test_nothing_is_left_behind_by_an_error(tmp_path):
  with pytest.raises(RuntimeError, match='halfway'), video.VideoWriter(tmp_path / 'a.mp4', 25, (32, 48)) as writer:
    writer.write(_gray(5))
    raise RuntimeError('halfway')
  with pytest.raises(UserError, match='no frame'), video.VideoWriter(tmp_path / 'b.mp4', 25, (32, 48)):
    pass
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').write_text('x')
  with pytest.raises(UserError, match='cannot write'):
    video.VideoWriter(tmp_path / 'file' / 'a.mp4', 25, (32, 48))


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
  path = _write(tmp_path / 'a.mp4', [_gray(5)] * 3)
  before = path.read_bytes()
  with video.VideoWriter(path, 25, (32, 48)) as writer:
    writer.write(_gray(200))
    assert path.read_bytes() == before
  assert path.read_bytes() != before


def test_frames_of_uneven_times_are_taken_at_the_nearest(tmp_path):
  times, values = [0, 40, 80, 200, 290, 320], [10, 50, 90, 130, 170, 210]
  _write_at(tmp_path / 'v.mp4', times, values)
  info = video.probe(tmp_path / 'v.mp4')
  assert info.variable and info.num_frames == 6
  got = _levels(video.read_frames(tmp_path / 'v.mp4', fps=25))
  wanted = [values[np.argmin(np.abs(np.array(times) - 40 * k))] for k in range(round(info.duration * 25))]
  assert np.abs(np.subtract(got, wanted)).max() <= 2
  assert len(got) >= 9


def test_rates_change_without_changing_the_length(tmp_path):
  values = list(range(20, 200, 6))  # 30 frames
  _write(tmp_path / 'a.mp4', [_gray(v) for v in values], fps=30, crf=1)
  assert len(list(video.read_frames(tmp_path / 'a.mp4', fps=25))) == 25
  faster = _levels(video.read_frames(tmp_path / 'a.mp4', fps=60))
  assert len(faster) == 60
  assert np.abs(np.array(faster[::2]) - values).max() <= 3
  same = _levels(video.read_frames(tmp_path / 'a.mp4', fps=30))
  assert np.abs(np.array(same) - values).max() <= 3


def test_times_count_from_the_first_frame(tmp_path):
  _write_at(tmp_path / 'late.mkv', [500, 540, 580, 620], [10, 60, 110, 160])
  assert _levels(video.read_frames(tmp_path / 'late.mkv', fps=25)) == pytest.approx([10, 60, 110, 160], abs=3)
  assert video.probe(tmp_path / 'late.mkv').duration == pytest.approx(0.16, abs=0.005)


def test_rotation_is_applied(tmp_path):
  left_red = np.zeros((32, 64, 3), np.uint8)
  left_red[:, :32, 0] = 255
  path = _write(tmp_path / 'a.mp4', [left_red] * 2)
  data = bytearray(path.read_bytes())
  matrix = data.index(b'tkhd') + 4 + 4 + 20 + 16  # version and flags; times, id, duration; layer and volume
  assert struct.unpack('>i', data[matrix : matrix + 4])[0] == 0x10000
  clockwise = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]  # shown a quarter turn clockwise, as phones write it
  data[matrix : matrix + 36] = struct.pack('>9i', *clockwise)
  (tmp_path / 'turned.mp4').write_bytes(data)
  frame = next(video.read_frames(tmp_path / 'turned.mp4'))
  assert frame.shape == (64, 32, 3)
  assert frame[:20, :, 0].mean() > 200 and frame[44:, :, 0].mean() < 50  # what was left is now on top
  info = video.probe(tmp_path / 'turned.mp4')
  assert (info.height, info.width) == (64, 32)


def test_pixels_that_are_not_square_stay_so(tmp_path):
  aspect = fractions.Fraction(16, 11)
  path = _write(tmp_path / 'a.mp4', [_gray(5)] * 2, pixel_aspect=aspect)
  assert video.probe(path).pixel_aspect == aspect
  assert video.probe(_write(tmp_path / 'b.mp4', [_gray(5)])).pixel_aspect == 1


def test_a_stamp_hours_away_does_not_hold_a_frame_for_hours(tmp_path):
  _write_at(tmp_path / 'a.mkv', [0, 40, 80, 9_000_000, 9_000_040], [10, 60, 110, 160, 210])
  assert _levels(video.read_frames(tmp_path / 'a.mkv', fps=25)) == pytest.approx([10, 60, 110, 160, 210], abs=3)


def test_what_is_no_video_is_told_in_a_sentence(tmp_path):
  with pytest.raises(UserError, match='no file'):
    video.probe(tmp_path / 'absent.mp4')
  with pytest.raises(UserError, match='folder'):
    video.probe(tmp_path)
  (tmp_path / 'empty.mp4').touch()
  with pytest.raises(UserError, match='empty'):
    next(video.read_frames(tmp_path / 'empty.mp4'))
  (tmp_path / 'noise.mp4').write_bytes(np.random.default_rng(0).bytes(5000))
  with pytest.raises(UserError, match='not a readable'):
    video.probe(tmp_path / 'noise.mp4')
  (tmp_path / 'words.txt').write_text('these are words\n' * 50)
  with pytest.raises(UserError):
    next(video.read_frames(tmp_path / 'words.txt'))
  path = _write(tmp_path / 'a.mp4', [_gray(5)] * 30)
  (tmp_path / 'cut.mp4').write_bytes(path.read_bytes()[:40])
  with pytest.raises(UserError):
    next(video.read_frames(tmp_path / 'cut.mp4'))


def test_a_video_cut_short_gives_what_it_has(tmp_path):
  rng = np.random.default_rng(0)
  path = _write(tmp_path / 'a.mp4', [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(30)])
  (tmp_path / 'cut.mp4').write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  assert 5 < len(list(video.read_frames(tmp_path / 'cut.mp4'))) < 30


def test_broadcast_rates_are_exact():
  assert video.exact_rate(29.97) == fractions.Fraction(30000, 1001)
  assert video.exact_rate(23.976) == fractions.Fraction(24000, 1001)
  assert video.exact_rate(25.0) == 25 and video.exact_rate(30) == 30
  assert video.exact_rate(12.5) == fractions.Fraction(25, 2)


def test_real_clips(samples):
  known = (('talk_524_25fps', 524, 25), ('talk_650_2997fps', 650, 30000 / 1001), ('talk_700_30fps', 700, 30))
  for name, size, rate in known:
    info = video.probe(samples / 'clips' / f'{name}.mp4')
    assert (info.height, info.width, info.has_audio, info.variable) == (size, size, True, False)
    assert info.fps == pytest.approx(rate, rel=1e-6)
  hard = samples / 'hard' / 'variable_frame_rate.mp4'
  info = video.probe(hard)
  assert info.variable
  assert sum(1 for _ in video.read_frames(hard, fps=25)) == round(info.duration * 25)
  grid = sorted((samples / 'grid' / 's1').glob('*.mpg'))[0]
  info = video.probe(grid)
  assert (info.width, info.height, info.fps, info.num_frames) == (360, 288, 25, 75)
  with pytest.raises(UserError, match='no video'):
    video.probe(samples / 'hard' / 'wav_named_mov.mov')


@pytest.mark.parametrize(
  ('times', 'rate'), [(None, 1_000_000), ([0, 1, 1 << 40, 1 << 41], 25)], ids=['too many a second', 'too far apart']
)
def test_frame_rates_that_make_no_sense(tmp_path, times, rate):
  frames, base = [np.zeros((16, 16, 3), np.uint8)] * 4, fractions.Fraction(1, 90_000) if times else None
  media_files.encode(tmp_path / 'a.mkv', frames, rate=rate, times=times, base=base)
  with pytest.raises(UserError, match=r'frames per second by its timestamps: expected 0\.033 to 1000'):
    video.probe(tmp_path / 'a.mkv')


def test_frames_that_are_too_large(tmp_path, monkeypatch):
  media_files.encode(tmp_path / 'a.mkv', [np.zeros((16, 32, 3), np.uint8)])
  monkeypatch.setattr(containers, 'MAX_PIXELS', 500)
  for read in (video.probe, lambda path: next(video.read_frames(path))):
    with pytest.raises(UserError, match='have 32 x 16 pixels, more than'):
      read(tmp_path / 'a.mkv')


@pytest.mark.parametrize('name', ['10:30.mp4', 'file:a.mp4', os.fsdecode(b'\xff.mp4')], ids=ascii)
def test_any_name_can_be_written_and_read(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  with video.VideoWriter(name, 25, (16, 16), np.zeros(640, np.float32)) as writer:
    writer.write(np.full((16, 16, 3), 90, np.uint8))
  assert os.listdir() == [name] and video.probe(name).num_frames == 1 and len(audio.read_audio(name)) == 640


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with pytest.raises(UserError, match=r'cannot write .*a\.mp4 \(File too large\): check the free disk space'):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
      with video.VideoWriter(tmp_path / 'a.mp4', 25, (256, 256), crf=0) as writer:
        for shift in range(60):
          writer.write(np.roll(noise, shift, 1))
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not list(tmp_path.iterdir())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='needs two cores')
def test_a_file_does_not_depend_on_the_number_of_cores(tmp_path):
  generator = np.random.default_rng(0)
  frames = [generator.integers(0, 255, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1) for _ in range(60)]
  cores = os.sched_getaffinity(0)
  try:
    for count in (1, 2):
      os.sched_setaffinity(0, list(cores)[:count])
      with video.VideoWriter(tmp_path / f'{count}.mp4', fps=25, size=(128, 128)) as writer:
        for frame in frames:
          writer.write(frame)
  finally:
    os.sched_setaffinity(0, cores)
  assert (tmp_path / '1.mp4').read_bytes() == (tmp_path / '2.mp4').read_bytes()
