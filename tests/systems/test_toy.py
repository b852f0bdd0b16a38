"""A system of picture and sound that lives outside the package goes through every command unchanged."""

import dataclasses
import json

import numpy as np
import pytest

from talkjax import systems
from talkjax.media import audio, video
from talkjax.metrics import suites
from talkjax.systems.scoring import Settings, score_workdir
from talkjax.training import checkpoint, input_pipeline
from tests.commands import call


@pytest.fixture(scope='module')
def workdir(puppets, tmp_path_factory):
  folder = tmp_path_factory.mktemp('toy') / 'run'
  call(
    'talkjax.train', '--config=tests/systems/toy.py', f'--config.data.dir={puppets}', '--config.sample_every=4',
    '--config.optimizer.learning_rate=0.1', f'--workdir={folder}',
  )  # fmt: skip
  return folder


def test_it_trains_and_previews(workdir):
  losses = [json.loads(line)['loss'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert losses[-1] < losses[0] and list((workdir / 'samples').glob('strip_*.png'))


def test_it_generates_picture_and_sound_with_its_own_option(workdir, tmp_path):
  out = tmp_path / 'out.mp4'
  call('talkjax.generate', f'--workdir={workdir}', '--seconds=1.5', '--pitch=800', f'--output={out}')
  assert len(list(video.read_frames(out))) == 38
  sound = audio.read_audio(out)
  assert abs(len(sound) / 16_000 - 38 / 25) < 0.05
  assert abs(np.abs(np.fft.rfft(sound[:16_000])).argmax() - 800) <= 1
  done = call('talkjax.generate', f'--workdir={workdir}', f'--output={out}', check=False)
  assert done.returncode == 2 and 'needs --seconds: --seconds is missing' in done.stderr
  done = call('talkjax.generate', f'--workdir={workdir}', '--seconds=1', '--speed=3', f'--output={out}', check=False)
  assert done.returncode == 2 and 'does not take --speed' in done.stderr


def test_its_score_is_evaluated(workdir, tmp_path):
  done = call('talkjax.evaluate', f'--workdir={workdir}', '--limit=2', '--pitch=700', f'--output={tmp_path / "s.json"}')
  scores = json.loads((tmp_path / 's.json').read_text())
  assert scores['pitch_error'] < 2 and scores['psnr'] > 0 and scores['settings'] == {'pitch': 700.0}
  assert 'pitch_error' in done.stdout


def test_its_sound_and_picture_are_scored_as_a_set(workdir, tmp_path):
  pytest.importorskip('mediapipe')
  args = (f'--workdir={workdir}', '--limit=2', '--suites=joint', f'--output={tmp_path / "s.json"}')
  done = call('talkjax.evaluate', *args)
  scores = json.loads((tmp_path / 's.json').read_text())
  # Its hum is no speech, and keeps one level.
  assert scores['caption_sound_truth'] == 1 and scores['caption_sound'] in (0, 0.5, 1)
  assert scores['fad_log_mel'] > 1 and scores['face_found_truth'] == 1
  assert 'no fvd without i3d: `python -m talkjax.convert --source=i3d' in done.stdout


def test_it_is_benchmarked(puppets):
  config = ('--config=tests/systems/toy.py', f'--config.data.dir={puppets}')
  done = call('talkjax.benchmark', *config, '--repeats=1')
  assert 'generated_frames_per_second' in done.stdout


def test_other_speech_is_generated_where_a_score_needs_it(workdir):
  config, params, _ = checkpoint.load_params(workdir)
  system = systems.build(config)
  records = list(input_pipeline.eval_records(config.data, 'test', 2))
  calls = []

  def from_records(clips, speech=None, **how):
    calls.append(speech is not None)
    return system.from_records(clips, speech, **how)

  counted = dataclasses.replace(system, from_records=from_records)
  alone = suites.Suite(
    ('length',), lambda context: lambda pair: {'length': len(list(pair.generated.frames()))}, pairs=True
  )
  score_workdir(counted, config, params, records, Settings(), (alone,))
  assert calls == [False]
  score_workdir(counted, config, params, records, Settings(), system.scores)
  assert calls == [False, False, True]
