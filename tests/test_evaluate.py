"""Scores of a workdir and of folders, and the benchmark's figures, as the commands give them."""

import json
import shutil

import ml_collections
import numpy as np
import pytest

from configs import speech_edit
from talkjax import benchmark, evaluate
from talkjax.media import picture, video
from talkjax.training import input_pipeline
from tests.commands import call
from tests.micro import ENCODER


@pytest.fixture(scope='module')
def workdir(micro_workdir, tmp_path_factory):
  """The run after two steps, when the network has learnt next to nothing."""
  folder = tmp_path_factory.mktemp('runs') / 'micro'
  return shutil.copytree(micro_workdir, folder, ignore=shutil.ignore_patterns('4', '6'))


@pytest.fixture(scope='module')
def scores(workdir, tmp_path_factory):
  out = tmp_path_factory.mktemp('scores')
  done = call(
    'talkjax.evaluate',
    f'--workdir={workdir}',
    '--limit=2',
    f'--output={out / "metrics.json"}',
    f'--strip={out / "strip.png"}',
    f'--videos={out / "videos"}',
  )
  return out, done


def test_a_workdirs_scores(scores):
  out, done = scores
  metrics = json.loads((out / 'metrics.json').read_text())
  assert metrics['clips'] == 2 and len(metrics['rows']) == 2 and metrics['step'] == 2
  assert metrics['true_conditions'] == []
  for name in (
    'psnr',
    'ssim',
    'psnr_mask',
    'ssim_mask',
    'lip_score',
    'lip_score_other_speech',
    'lip_score_other_truth',
  ):
    assert name in metrics and name in done.stdout
  # An untrained network repeats the identity frame, and that is what its baseline does.
  assert abs(metrics['psnr_mask'] - metrics['psnr_mask_identity']) < 1
  assert -1 <= metrics['lip_score_other_truth'] <= 1
  assert picture.read(out / 'strip.png').shape[0] > 32


def test_noise_has_the_level_asked_for(puppets):
  data = ml_collections.ConfigDict({'dir': str(puppets), 'corpus': 'puppets/tiny'})
  (clip,) = input_pipeline.eval_records(data, 'test', 1)
  noisy = evaluate._with_noise(clip, 10.0, np.random.default_rng(0))
  sound, difference = clip.audio.astype(float), noisy.audio.astype(float) - clip.audio
  assert abs(10 * np.log10(np.mean(sound**2) / np.mean(difference**2)) - 10) < 0.3
  assert noisy.audio.dtype == np.int16 and noisy.id == clip.id


def test_videos_for_every_clip_can_be_compared(scores):
  out, _ = scores
  folders = {k: sorted((out / 'videos' / k).iterdir()) for k in ('source', 'true', 'generated', 'other_speech')}
  assert {len(v) for v in folders.values()} == {2}
  assert video.probe(folders['source'][0]).width == 128 and video.probe(folders['true'][0]).width == 32
  done = call(
    'talkjax.evaluate',
    f'--generated={out / "videos" / "source"}',
    f'--reference={out / "videos" / "source"}',
    f'--output={out / "same.json"}',
  )
  same = json.loads((out / 'same.json').read_text())
  assert same['ssim'] == 1 and same['lip_score'] > 0.999 and 'mean' in done.stdout


@pytest.mark.parametrize(
  ('arguments', 'code', 'sentence'),
  [
    ((), 2, 'give either --workdir, or both'),
    (('--generated=here',), 2, 'give either --workdir, or both'),
    (('--workdir=nowhere',), 1, 'nowhere is not a workdir'),
    (('--generated=nowhere', '--reference=nowhere'), 1, 'nowhere'),
    (('--generated=here', '--reference=there', '--workdir={micro}'), 2, 'give either --workdir, or both'),
    (('--workdir={micro}', '--split=trian'), 1, "has no split 'trian'"),
    (('--workdir={micro}', '--limit=0'), 2, '--limit=0: expected 1 or more'),
    (('--workdir={micro}', '--other_speech=none'), 2, '--other_speech=none: expected one of plain, rotated'),
    (('--workdir={micro}', '--steps=0'), 2, '--steps=0: expected 1 or more'),
    (('--workdir={micro}', '--sampler=ddimm'), 1, "sampler 'ddimm' is not one of"),
    (
      ('--workdir={micro}', '--motion_frames=False'),
      2,
      'speech_edit does not take --motion_frames: it takes --sampler, --steps',
    ),
    (('--workdir={micro}', '--sweep=audio_weight=1,2'), 2, '--sweep=audio_weight: speech_edit can sweep nothing'),
    (('--workdir={micro}', '--video=a.mp4'), 2, 'video'),
    (('--workdir={micro}', '--oracle'), 2, '--oracle: speech_edit has no conditions'),
  ],
)
def test_errors(arguments, code, sentence, micro_workdir):
  done = call('talkjax.evaluate', *(a.format(micro=micro_workdir) for a in arguments), check=False)
  assert done.returncode == code and sentence in done.stderr and done.stderr.count('\n') == 1


def test_benchmark_figures(micro, tmp_path):
  output = tmp_path / 'benchmark.json'
  call('talkjax.benchmark', *micro, '--repeats=2', f'--output={output}')
  figures = json.loads(output.read_text())
  for name in (
    'step_seconds',
    'frames_per_second',
    'gflops',
    'matmul_gflops',
    'compile_seconds',
    'sampler_over_bare_steps',
    'input_frames_per_second',
    'peak_host_bytes',
  ):
    assert figures[name] > 0, name


def test_benchmark_needs_no_weights(puppets):
  """As `paper` of the portrait systems, whose wav2vec 2.0 must be given to training."""
  config = speech_edit.get_config('tiny,size=32,model.multipliers=(1,),model.width=32,batch_size=8')
  config.audio.update(kind='wav2vec2', wav2vec2=ENCODER)
  config.data.update(corpus='puppets/tiny', dir=str(puppets))
  figures = benchmark.compile_only(config)
  assert figures['parameters'] > 0 and figures['weights'] == 'random'
  assert not list(puppets.glob('**/wav2vec2*'))  # no states are computed
