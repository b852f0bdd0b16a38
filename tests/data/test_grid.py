import pathlib
import sys

import numpy as np
import pytest

from talkjax import build
from talkjax.corpora import building
from talkjax.errors import UserError

Builder = build.load(pathlib.Path(__file__).parents[2] / 'data/grid')
grid = sys.modules[Builder.__module__]


def touch(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  return folder


def test_every_layout_of_the_corpus_is_found(tmp_path):
  touch(
    tmp_path,
    's1/bbaf2n.mpg',
    'alignments/s1/bbaf2n.align',
    's12/video/mpg_6000/lgwz4s.mpg',
    's12/video/mpg_vcd/lgwz4s.mpg',
    's12/align/lgwz4s.align',
    's12/audio/50k/lgwz4s.wav',
    's12/audio/25k/lgwz4s.wav',
    's2/pwij3p.mpg',
    's7/sgac1a.mpg',
    'notes/other.mpg',
  )
  items = grid.find_items(tmp_path)
  assert list(items) == ['s1_bbaf2n', 's2_pwij3p', 's7_sgac1a', 's12_lgwz4s']
  assert items['s1_bbaf2n'].alignment.endswith('alignments/s1/bbaf2n.align')
  assert items['s12_lgwz4s'].alignment.endswith('s12/align/lgwz4s.align')
  assert 'mpg_6000' in items['s12_lgwz4s'].clip.video and '50k' in items['s12_lgwz4s'].clip.audio
  assert items['s2_pwij3p'].alignment == '' and items['s2_pwij3p'].clip.transcript == 'place white in j three please'
  assert [i.clip.gender for i in items.values()] == ['male', 'male', 'female', 'male']
  assert items['s7_sgac1a'].clip.caption == 'A woman is talking'
  with pytest.raises(UserError, match='no GRID video'):
    grid.find_items(tmp_path / 'notes')


def test_the_corpus_has_18_men_and_16_women():
  assert len(set(grid.FEMALE)) == 16 and set(grid.FEMALE) < set(range(1, 35))


@pytest.mark.parametrize(('clips', 'test'), [(1000, 50), (999, 49), (200, 20), (150, 15), (15, 1), (5, 0)])
def test_the_single_speaker_split_holds_out_the_last_by_name(tmp_path, clips, test):
  touch(tmp_path, *(f's1/clip{i:04}.mpg' for i in range(clips)), 's3/bbaf2n.mpg')
  splits = grid.split_items(grid.find_items(tmp_path), 's1')
  names = [f's1_clip{i:04}' for i in range(clips)]
  assert list(splits['train']) == names[: clips - test] and list(splits['test']) == names[clips - test :]


def test_the_speaker_split_shares_no_speaker(tmp_path):
  touch(tmp_path, *(f's{n}/bbaf2n.mpg' for n in range(1, 35) if n != 21))
  splits = grid.split_items(grid.find_items(tmp_path), 'speakers')
  speakers = {split: {item.clip.speaker for item in items.values()} for split, items in splits.items()}
  assert speakers['test'] == {'s1', 's2', 's20', 's22'}
  assert len(speakers['train']) == 29 and not speakers['train'] & speakers['test']


def test_no_clip_of_speaker_1_is_an_error_that_says_so(tmp_path):
  items = grid.find_items(touch(tmp_path, 's3/bbaf2n.mpg'))
  with pytest.raises(UserError, match='speaker s1'):
    grid.split_items(items, 's1')


def test_alignment_times_are_seconds_and_silences_are_left_out(tmp_path):
  path = tmp_path / 'a.align'
  path.write_text('0 15250 sil\n15250 21000 bin\n21000 25750 blue\n25750 26000 sp\n26000 74500 at\n74500 75000 sil\n')
  words = grid.read_alignment(path)
  assert [(w.text, w.start, w.end) for w in words] == [('bin', 0.61, 0.84), ('blue', 0.84, 1.03), ('at', 1.04, 2.98)]


@pytest.mark.parametrize('text', ['0 100\n', 'zero 100 bin\n', '0 200 bin\n100 300 blue\n', '300 200 bin\n'])
def test_a_broken_alignment_skips_its_clip(tmp_path, text):
  path = tmp_path / 'a.align'
  path.write_text(text)
  with pytest.raises(building.Skip, match='alignment'):
    grid.read_alignment(path)


def test_the_names_of_the_clips_spell_their_sentences(samples):
  for path in sorted((samples / 'grid/alignments/s1').glob('*.align')):
    spoken = ' '.join(word.text for word in grid.read_alignment(path))
    assert grid.sentence_of(path.stem) == spoken, path.name
  assert grid.sentence_of('readme') == '' and grid.sentence_of('bbaf2nx') == ''


def test_a_real_clip_becomes_a_record(samples):
  items = grid.find_items(samples / 'grid')
  record = grid.make_record(items['s1_bbas2p'])
  assert record.id == 's1_bbas2p' and record.speaker == 's1' and record.gender == 'male'
  assert record.transcript == 'bin blue at s two please'
  assert record.fps == 25 and len(record.frames) == 75 and record.size == (128, 128)
  assert record.frame(0).shape == (128, 128, 3)
  assert record.audio.dtype == np.int16 and len(record.audio) == 75 * 640
  for name, shape in (('box', (75, 4)), ('landmarks', (75, 68, 2)), ('pose', (75, 3))):
    array = getattr(record, name)
    assert array.shape == shape and array.dtype == np.float32 and np.isfinite(array).all()
  # The face is upright, in the middle, and holds still: alignment did its work.
  eyes, chin = record.landmarks[:, 36:48].mean(1), record.landmarks[:, 8]
  assert (chin[:, 1] - eyes[:, 1] > 40).all() and np.abs(eyes[:, 0] - 64).max() < 8
  assert eyes.std(0).max() < 3
  assert ((record.landmarks > -10) & (record.landmarks < 138)).all()
  # Somebody speaks between the first word and the last, and is quiet before.
  start, end = record.words[0].start, record.words[-1].end
  loudness = lambda a, b: float(np.square(record.audio[int(a * 16000) : int(b * 16000)] / 32768.0).mean())
  assert loudness(start, end) > 10 * loudness(0, start - 0.1)


def test_an_alignment_longer_than_its_video_skips_the_clip(samples, tmp_path):
  item = grid.find_items(samples / 'grid')['s1_bbas2p']
  path = tmp_path / 'bbas2p.align'
  path.write_text('0 70000 bin\n70000 90000 blue\n')
  with pytest.raises(building.Skip, match='longer than the video'):
    grid.make_record(grid.Item(item.clip, str(path)))
