"""The scores of fd2talk's videos, each suite alone, and the lip expert as a judge of any video."""

import dataclasses
import json
import shutil
import types

import cv2
import jax
import numpy as np
import pytest

from configs import lip_expert as config_file
from talkjax import systems
from talkjax.faces import landmarks, mesh_pca
from talkjax.metrics import footage, sync
from talkjax.systems import coefficients, scoring
from talkjax.training import checkpoint
from tests import faces_given, renderer
from tests.commands import call
from tests.micro import random_params


@pytest.fixture(scope='module')
def made(puppets):
  return renderer.make(puppets)


@pytest.fixture(scope='module')
def expert(made, tmp_path_factory):
  """A lip expert of random weights, and its workdir."""
  config = config_file.get_config('tiny')
  sizes = {f'morphable.{k}': v for k, v in dataclasses.asdict(made.model.sizes).items()}
  small = {'audio.kind': 'mel', 'audio.bands': 8, 'model.features': 8, 'model.width': 16, 'model.layers': 1}
  config.update_from_flattened_dict({**small, **sizes, 'data.corpus': 'puppets/tiny', 'data.dir': made.config.data.dir})
  system = systems.build(config)
  batch = {'coefficients': np.zeros((1, 5, made.model.sizes.row)), 'audio': np.zeros((1, 5, 32))}
  params = random_params(jax.eval_shape(system.init, jax.random.key(0), batch))
  params |= {coefficients.BRANCH: made.model.arrays()}
  workdir = str(tmp_path_factory.mktemp('lip_expert') / 'run')
  checkpoint.save_params(workdir, config, params, 0)
  return types.SimpleNamespace(system=system, params=params, workdir=workdir)


@pytest.fixture(scope='module')
def workdir(made, puppets, tmp_path_factory):
  """A workdir of fd2talk's stage 3; its data_dir also has the corpus `judged`, with a test split only."""
  folder = tmp_path_factory.mktemp('fd2talk')
  shutil.copytree(puppets / 'puppets', folder / 'data/puppets')
  shutil.copytree(puppets / 'puppets', folder / 'data/judged')
  (path,) = (folder / 'data/judged').glob('tiny/*/dataset_info.json')
  info = json.loads(path.read_text())
  path.write_text(json.dumps({**info, 'splits': [split for split in info['splits'] if split['name'] == 'test']}))
  checkpoint.save_params(str(folder / 'run'), made.change(**{'data.dir': str(folder / 'data')}), made.params, 0)
  return str(folder / 'run')


def enlarged(frame):
  """A frame of 128 pixels as `landmarks.track` sees it."""
  return cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


def doubled(track):
  """The track of a video that shows each frame twice."""
  rows = {f.name: getattr(track, f.name) for f in dataclasses.fields(track)}
  return landmarks.FaceTrack(**{k: v if k == 'num_faces' else np.repeat(v, 2, axis=0) for k, v in rows.items()})


def evaluate(tmp_path, *arguments):
  done = call('talkjax.evaluate', *arguments, f'--output={tmp_path}/scores.json')
  return json.loads((tmp_path / 'scores.json').read_text()), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
  ('suite', 'own', 'absent', 'missing'),
  [
    ('image', {'psnr', 'psnr_identity', 'sharpness_face'}, {'lip_score', 'diversity'}, 'inception'),
    ('sync', {'lip_score', 'lip_score_other_speech'}, {'psnr', 'lse_c'}, '--lip_expert=WORKDIR'),
    ('motion', {'diversity_truth', 'beat_align_truth'}, {'psnr', 'lip_score'}, 'hopenet'),
    ('identity', {'identity', 'in_region'}, {'psnr', 'lip_score', 'f_sim'}, 'deep3d'),
  ],
)
def test_each_suite_alone(workdir, tmp_path, suite, own, absent, missing):
  corpus = 'judged/tiny' if suite == 'identity' else 'puppets/tiny'
  arguments = f'--workdir={workdir}', f'--corpus={corpus}', '--limit=2', '--batch_size=2', f'--suites={suite}'
  scores, out = evaluate(tmp_path, *arguments)
  assert own <= scores.keys() and not absent & scores.keys() and scores['corpus'] == corpus
  assert missing in out and missing in ' '.join(scores['missing'])


@pytest.mark.slow
def test_the_lip_expert_judges_generated_and_true_videos(workdir, expert, tmp_path):
  arguments = f'--workdir={workdir}', '--limit=2', '--batch_size=2', f'--lip_expert={expert.workdir}'
  videos = tmp_path / 'videos'
  scores, out = evaluate(tmp_path, *arguments, '--suites=sync', f'--videos={videos}')
  assert 0 <= scores['expert_in_sync_truth'] <= 1 and scores['expert_confidence_truth'] >= 0
  assert 'expert_confidence' in out and scores['networks'].keys() == {'lip_expert'}
  folders = [f'--{name}={videos / "true"}' for name in ('generated', 'reference')]
  for suites in ('sync', 'joint', 'sync,joint'):
    same, out = evaluate(tmp_path, *folders, f'--suites={suites}', f'--lip_expert={expert.workdir}')
    assert same['expert_in_sync'] == same['expert_in_sync_truth']
    assert same['expert_in_sync'] == pytest.approx(scores['expert_in_sync_truth'], abs=0.1)  # the file is compressed
    assert out.count('expert_in_sync_truth') == 1


def test_lips_are_embedded_at_25_frames_a_second_at_any_rate(made, expert):
  record = made.records[0]
  frames = [record.frame(i) for i in range(len(record.frames))]
  sound = record.audio.astype(np.float32) / 32768
  network = scoring.load_lip_expert(expert.workdir)
  plain = footage.from_frames('plain', frames, 25.0, sound)
  twice = footage.from_frames('twice', [f for f in frames for _ in range(2)], 50.0, sound)
  twice = faces_given.with_face(twice, doubled(plain.faces))
  once, again = (network('embed', video) for video in (plain, twice))
  assert once['lip'].shape == once['speech'].shape == (5, 8)  # nine frames
  np.testing.assert_allclose(again['lip'], once['lip'], atol=1e-4)
  np.testing.assert_array_equal(again['speech'], once['speech'])
  # They are what the expert sees of coefficients in a corpus.
  rows = mesh_pca.of_track(made.model, landmarks.find_faces(map(enlarged, frames)), (256, 256))
  known = dataclasses.replace(record, features={'coefficients': np.concatenate([rows, rows])})  # it needs ten frames
  judged = expert.system.predict(expert.params, [known])[1][0].curves['in_sync'][:5]
  unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in once.values()]
  np.testing.assert_allclose((unit[0] * unit[1]).sum(-1), judged, atol=1e-3)


def test_videos_that_cannot_be_judged(made, expert):
  network = scoring.load_lip_expert(expert.workdir)
  frames = [made.records[0].frame(i) for i in range(6)]
  sound = np.zeros(6 * 640, np.float32)
  grey = [np.full_like(frames[0], 128)] * 6
  for bad in ((grey, sound), (frames, None), (frames[:4], sound), (frames, sound[:2000])):
    said = sync.by_expert(footage.from_frames('bad', bad[0], 25.0, bad[1]), network)
    assert said == dict.fromkeys(('expert_in_sync', 'expert_confidence', 'expert_offset'))


def test_flags_that_cannot_be_used(workdir, expert):
  def refused(*arguments):
    done = call('talkjax.evaluate', *arguments, check=False)
    assert done.returncode and done.stderr.count('\n') == 1
    return done.stderr

  assert 'which has no embed_lips' in refused(f'--workdir={workdir}', '--suites=sync', f'--lip_expert={workdir}')
  assert 'nowhere is not a workdir' in refused(f'--workdir={workdir}', '--suites=joint', '--lip_expert=nowhere')
  assert 'no score of these suites needs it' in refused(f'--workdir={workdir}', f'--lip_expert={expert.workdir}')
  assert 'so leave out image' in refused(f'--workdir={expert.workdir}', '--suites=image,sync')
