"""A file that is named is the only one that is read, and what is no regular file is refused at once."""

import os
import shutil
import socket
import threading

import av
import numpy as np
import pytest

from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.media import audio, picture, video

SECRET = 200  # grey level of the video that nobody named

MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" type="static"
  mediaPresentationDuration="PT2S" minBufferTime="PT2S"><Period><AdaptationSet contentType="video"
  mimeType="video/mp4"><Representation id="0" bandwidth="1000" codecs="avc1.640000" width="64" height="64">
  <BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>
"""
CPL = """<?xml version="1.0" encoding="UTF-8"?>
<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>urn:uuid:0</Id><EditRate>24 1</EditRate>
<SegmentList/></CompositionPlaylist>
"""
SDP = 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n'
PLAYLIST = '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2,\n{secret}.ts\n'

# Name of the file -> its text, of each demuxer that opens other files or connections, or takes any text.
REFERENCES = {
  'absolute.m3u8': PLAYLIST + '#EXT-X-ENDLIST\n',
  'relative.m3u8': PLAYLIST.replace('{secret}', 'secret') + '#EXT-X-ENDLIST\n',
  'playlist_named.mp4': PLAYLIST + '#EXT-X-ENDLIST\n',
  'playlist_without_end.m3u8': PLAYLIST,
  'concat.ffconcat': 'ffconcat version 1.0\nfile secret.mp4\n',
  'concat_named.mp4': 'ffconcat version 1.0\nfile secret.mp4\n',
  'concat_of_sound.wav': 'ffconcat version 1.0\nfile secret.wav\n',
  'dash.mpd': MPD,
  'imf.xml': CPL,
  'session.sdp': SDP,
  'subtitles.idx': '# VobSub index file, v7 (do not modify this line!)\nsize: 64x64\nid: en, index: 0\n',
  'tags.mp4': ';FFMETADATA1\ntitle=secret.mp4\n',
  'cue.cue': 'FILE "secret.wav" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
  'script.avs': 'DirectShowSource("secret.mp4")\n',
  'movie.lavfi': 'movie=secret.mp4\n',
  'segments.txt': 'file secret.mp4\nfile secret.mp4\n',
  'pipe.mp4': 'pipe:0\n',
  'captions.srt': '1\n00:00:00,000 --> 00:00:02,000\nsecret.mp4\n',
  'captions.json': '{"captions":[{"duration":1,"content":"secret.mp4","startOfParagraph":true,"startTime":0}]}',
  'drawing.svg': '<svg xmlns="http://www.w3.org/2000/svg"><image href="secret.png" width="64" height="64"/></svg>',
  'parts.mpjpeg': '--ffserver\r\nContent-type: image/jpeg\r\nContent-length: 4\r\n\r\nabcd',
}


@pytest.fixture(scope='module')
def secret(tmp_path_factory):
  """A folder with a grey video as MP4 and MPEG-TS, a second of its sound, and pictures of it."""
  folder = tmp_path_factory.mktemp('secret')
  tone = 0.5 * np.sin(np.arange(16_000) / 5).astype(np.float32)
  frame = np.full((64, 64, 3), SECRET, np.uint8)
  with video.VideoWriter(folder / 'secret.mp4', 25, (64, 64), tone) as writer:
    for _ in range(25):
      writer.write(frame)
  with av.open(str(folder / 'secret.mp4')) as source, av.open(str(folder / 'secret.ts'), 'w') as target:
    stream = target.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(source.streams.video[0]):
      if packet.dts is not None:
        packet.stream = stream
        target.mux(packet)
  for name in ('secret.png', 'p001.png', 'p002.png'):
    picture.write(folder / name, frame)
  assert len(list(video.read_frames(folder / 'secret.ts'))) == 25
  return folder


def _refusal(read) -> str:
  """The sentence of the UserError that `read` raises within 20 s; anything else fails."""
  outcome = []

  def run():
    try:
      outcome.append(f'no error but {read()}')
    except UserError as error:
      outcome.append(error)

  thread = threading.Thread(target=run, daemon=True)  # not waited for, should it hang
  thread.start()
  thread.join(20)
  assert not thread.is_alive(), 'it hangs'
  assert isinstance(outcome[0], UserError), outcome[0]
  sentence = str(outcome[0])
  assert '\n' not in sentence and len(sentence) < 500
  return sentence


READERS = {
  'probe': video.probe,
  'frames': lambda path: [frame.mean() for frame in video.read_frames(path)],
  'tags': video.read_metadata,
  'sound': audio.read_audio,
}


@pytest.mark.parametrize('name', REFERENCES)
def test_a_file_that_refers_to_others_is_refused(secret, tmp_path, name):
  for path in secret.iterdir():
    shutil.copy(path, tmp_path)
  path = tmp_path / name
  path.write_text(REFERENCES[name].replace('{secret}', str(secret / 'secret')))
  for read in READERS.values():
    assert _refusal(lambda read=read: read(path)).startswith(f'{path} is not a readable video or audio file (')


@pytest.mark.parametrize(
  ('kind', 'codec'),
  [
    *(('mp4', 'libx264'), ('mov', 'libx264'), ('3gp', 'mpeg4'), ('matroska', 'libx264'), ('avi', 'mpeg4')),
    *(('mpeg', 'mpeg1video'), ('vob', 'mpeg2video'), ('mpegts', 'libx264'), ('asf', 'wmv2'), ('flv', 'flv')),
    *(('mxf', 'mpeg2video'), ('nut', 'mpeg4'), ('yuv4mpegpipe', 'rawvideo'), ('m4v', 'mpeg4')),
  ],
)
def test_containers_of_video_are_read_whatever_their_names(tmp_path, kind, codec):
  with av.open(str(tmp_path / 'nameless'), 'w', format=kind) as container:
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    for level in range(60, 120, 2):
      frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  levels = [frame.mean() for frame in video.read_frames(tmp_path / 'nameless')]
  assert len(levels) == 30 and np.abs(np.array(levels) - range(60, 120, 2)).max() < 8
  assert video.probe(tmp_path / 'nameless').duration == pytest.approx(1.2)


@pytest.mark.parametrize(
  ('kind', 'codec'),
  [
    *(('wav', 'pcm_s16le'), ('w64', 'pcm_s16le'), ('aiff', 'pcm_s16be'), ('au', 'pcm_s16be'), ('caf', 'pcm_s16le')),
    *(('mp3', 'libmp3lame'), ('adts', 'aac'), ('ac3', 'ac3'), ('eac3', 'eac3'), ('flac', 'flac'), ('ogg', 'libopus')),
  ],
)
def test_containers_of_sound_are_read_whatever_their_names(tmp_path, kind, codec):
  with av.open(str(tmp_path / 'nameless'), 'w', format=kind) as container:
    stream = container.add_stream(codec, rate=48_000)
    stream.layout = 'mono'
    tone = (8000 * np.sin(np.arange(48_000) / 20)).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(tone, format='s16', layout='mono')
    frame.sample_rate = 48_000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  sound = audio.read_audio(tmp_path / 'nameless')
  assert len(sound) == pytest.approx(16_000, abs=400) and np.abs(sound).mean() == pytest.approx(0.155, abs=0.01)


def test_a_file_named_as_a_sequence_of_pictures_is_refused(secret, tmp_path):
  for path in secret.glob('*.png'):
    shutil.copy(path, tmp_path)
  shutil.copy(secret / 'secret.png', tmp_path / 'p%03d.png')
  for read in READERS.values():
    assert 'a picture' in _refusal(lambda read=read: read(tmp_path / 'p%03d.png'))


def test_a_quicktime_reference_to_another_file_is_not_followed(secret, tmp_path):
  """Where a MOV says that its frames lie in another file, nothing of that file is shown."""
  shutil.copy(secret / 'secret.mp4', tmp_path)
  data = (secret / 'secret.mp4').read_bytes()
  start = data.index(b'dref') - 4
  end = start + int.from_bytes(data[start : start + 4], 'big')
  name = b'secret.mp4'
  alias = bytes(10) + bytes(28) + bytes(12) + bytes([len(name)]) + name.ljust(63, b'\0') + bytes(16)
  alias += (1).to_bytes(2, 'big') * 2 + bytes(16) + (2).to_bytes(2, 'big') + len(name).to_bytes(2, 'big') + name
  alias += b'\xff\xff\0\0'
  entry = (12 + len(alias)).to_bytes(4, 'big') + b'alis' + bytes(4) + alias
  dref = (16 + len(entry)).to_bytes(4, 'big') + b'dref' + bytes(4) + (1).to_bytes(4, 'big') + entry
  grown = bytearray(data[:start] + dref + data[end:])
  for box in (b'moov', b'trak', b'mdia', b'minf', b'dinf'):
    at = data.index(box) - 4
    grown[at : at + 4] = (int.from_bytes(data[at : at + 4], 'big') + len(dref) - (end - start)).to_bytes(4, 'big')
  media = grown.index(b'mdat') + 4
  grown[media:] = bytes(len(grown) - media)  # its own frames are gone
  path = tmp_path / 'a.mov'
  path.write_bytes(grown)
  with av.open(str(path), options={'enable_drefs': '1'}) as container:  # the reference is one that ffmpeg can follow
    assert sum(1 for _ in container.decode(video=0)) == 25
  assert 'no frame' in _refusal(lambda: list(video.read_frames(path)))


@pytest.fixture(params=['FIFO', 'socket', 'device', 'endless device', 'folder', 'dangling link', 'link to a FIFO'])
def special(request, tmp_path):
  """Something that is no regular file, and what its error has to call it."""
  path = tmp_path / 'a.mp4'
  if request.param == 'FIFO':
    os.mkfifo(path)
    return path, 'is a FIFO (named pipe)'
  if request.param == 'socket':
    server = socket.socket(socket.AF_UNIX)
    request.addfinalizer(server.close)
    request.getfixturevalue('monkeypatch').chdir(tmp_path)  # the path of a socket has to be short
    server.bind('a.mp4')
    return path, 'is a socket'
  if request.param == 'link to a FIFO':
    os.mkfifo(tmp_path / 'fifo')
    path.symlink_to('fifo')
    return path, 'is a FIFO (named pipe)'
  if request.param == 'folder':
    path.mkdir()
    return path, 'is a folder'
  if request.param == 'dangling link':
    path.symlink_to('nowhere')
    return path, 'is a link to nowhere, which does not exist'
  path.symlink_to('/dev/zero' if request.param == 'endless device' else '/dev/tty')
  return path, 'is a device'


@pytest.mark.parametrize('reader', READERS)
def test_only_regular_files_are_played(special, reader):
  path, called = special
  assert f'{path} {called}: give a video or audio file' == _refusal(lambda: READERS[reader](path))


def test_only_regular_files_are_pictures(special):
  path, called = special
  assert _refusal(lambda: picture.read(path)).startswith(f'{path} {called}: give a PNG or JPEG')


def test_what_takes_a_files_place_before_it_is_opened_is_refused_too(tmp_path, monkeypatch):
  os.mkfifo(tmp_path / 'a.mp4')
  regular = os.stat(__file__)
  monkeypatch.setattr(os, 'stat', lambda path: regular)
  assert 'is a FIFO' in _refusal(lambda: video.probe(tmp_path / 'a.mp4'))


@pytest.mark.parametrize('suffix', ['.npy', '.pth'])
def test_only_regular_files_hold_keypoints(special, suffix):
  path, called = special
  path = path.rename(path.with_suffix(suffix))
  assert _refusal(lambda: keypoints.read(path)) == f'{path} {called}: give a .npy or .pth file'
