"""Generation with V-Express: windows of videos of any length, on one device or several."""

import dataclasses
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from talkjax import options, systems
from talkjax.systems import portrait, scoring
from talkjax.systems.sampling import make_table
from talkjax.systems.vexpress import OPTIONS, conditions, generation, model
from talkjax.training import checkpoint, sharding
from talkjax.training.workdir import read_config
from tests.commands import ROOT
from tests.micro import cut, generate


def changed(vexpress, **values) -> types.SimpleNamespace:
  """System and sampler of the config with other values."""
  config = vexpress.config.copy_and_resolve_references()
  config.update_from_flattened_dict(values)
  return types.SimpleNamespace(config=config, system=systems.build(config), params=vexpress.params)


def test_any_length_is_generated_without_compiling_the_networks_again(vexpress):
  compiled = lambda: [f._cache_size() for f in (vexpress.sampler.predict, vexpress.sampler.decode)]
  sizes = None
  for count in (2, 6, 9, 30, 12, 41, 5):
    given = vexpress.system.from_records(vexpress.records[:1], num_frames=count).conditions
    joined = systems.join(vexpress.system.generate(vexpress.params, given, np.array([5], np.uint32)))
    assert joined.frames.shape == (1, count, 32, 32, 3) and joined.frames.dtype == np.uint8
    assert joined.seams == (tuple(sorted({min(s, count - 4) for s in range(3, count - 1, 3)})),)
    if count == 6:  # one window, and two at once, which is the most that the config allows
      sizes = compiled()
  assert compiled() == sizes


def test_seams_are_scored_where_windows_begin(vexpress):
  clips = [cut(r, n) for r, n in zip(vexpress.records, (9, 6))]
  _, made = scoring.generate_clips(vexpress.system, vexpress.params, clips, np.array([5, 6], np.uint32))
  assert vexpress.system.true_conditions == ('keypoints',)
  assert [m.seams for m in made] == [(3, 5), (2,)]  # the last window of four frames ends with its video


def test_a_video_depends_neither_on_its_batch_nor_on_the_number_of_windows_at_once(vexpress):
  both = vexpress.system.from_records(vexpress.records, num_frames=9).conditions
  videos = generate(vexpress.system, vexpress.params, both, [5, 6])
  other = changed(vexpress, **{'windows.batch_size': 1, 'windows.cache_mib': 0})
  alone = other.system.from_records(vexpress.records[1:], num_frames=9).conditions
  alone = generate(other.system, other.params, alone, [6])[0]
  assert videos.shape == (2, 9, 32, 32, 3) and np.abs(videos[1] - alone).max() <= 1


def test_sound_and_keypoints_drive_the_video(vexpress):
  given = vexpress.system.from_records(vexpress.records[:1], num_frames=9).conditions
  run = lambda **fields: generate(vexpress.system, vexpress.params, dataclasses.replace(given, **fields), [5])
  plain = run()
  sound = dataclasses.replace(given.sound[0], waveform=given.sound[0].waveform[::-1])
  assert np.abs(run(sound=[sound]) - plain).max() > 0
  assert np.abs(run(keypoints=[given.keypoints[0] + 4]) - plain).max() > 0


def test_each_video_of_a_batch_has_its_own_settings(vexpress):
  """Each setting is doubled in one video, all of them in the last, which equals a config with all doubled."""
  doubled = 1.0 + np.eye(4, dtype=np.float32)[:3]
  doubled[:, -1] = 2.0
  settings = dict(zip(portrait.SETTINGS, doubled))
  several = vexpress.system.from_records(vexpress.records[:1] * 4, num_frames=9, settings=settings).conditions
  videos = generate(vexpress.system, vexpress.params, several, [5] * 4)
  differences = np.abs(videos[:, None] - videos[None]).max((2, 3, 4, 5))
  assert (differences[~np.eye(4, dtype=bool)] > 1).all()
  alone = vexpress.system.from_records(vexpress.records[:1], num_frames=9).conditions
  config, _ = options.apply(vexpress.config, OPTIONS, dict.fromkeys(portrait.SETTINGS, 2.0))
  np.testing.assert_allclose(videos[-1], generate(systems.build(config), vexpress.params, alone, [5])[0], atol=1)
  # And each differs from the video of the config.
  plain = generate(vexpress.system, vexpress.params, alone, [5])
  assert (np.abs(videos - plain).max((1, 2, 3, 4)) > 1).all()


def denoise_workdir(workdir: str, path: str) -> None:
  """Writes the clean latents of 30 frames, generated with a workdir on all devices."""
  config = read_config(workdir)
  params = sharding.replicate(checkpoint.load_params(workdir)[1])
  sampler = generation.Sampler(model.make_networks(config), config, make_table(config))
  rng = np.random.default_rng(0)
  size = config.size
  points = rng.uniform(0, size, (30, 3, 2)).astype(np.float32)
  given = conditions.Conditions(
    conditions.Portraits(rng.uniform(-1, 1, (1, size, size, 3)).astype(np.float32), points[:1], {}), [points], []
  )
  inputs = generation.Inputs(
    sampler.prepare(params, given.portraits.reference),
    lambda video, index: generation.draw_keypoints(points, index, config),
    [rng.normal(size=(30, 160)).astype(np.float32)],
    np.array([3], np.uint32),
    points=[(points[0], points)],
  )
  np.save(path, generation.denoise(params, inputs, sampler=sampler)[0][:30])


@pytest.mark.slow
@pytest.mark.parametrize('devices', [2, 8])
def test_windows_on_several_devices_average_to_the_same(vexpress, tmp_path, devices):
  workdir = str(tmp_path / 'workdir')
  config = changed(vexpress, **{'sampler.name': 'ddim', 'guidance': 2.0, 'windows.batch_size': 8}).config
  checkpoint.save_params(workdir, config, vexpress.params, 0)
  denoise_workdir(workdir, str(tmp_path / 'one.npy'))
  script = (
    f'from tests.systems import test_vexpress_generation as t; t.denoise_workdir({workdir!r}, "{tmp_path}/n.npy")'
  )
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
  script += f'; import jax; assert jax.device_count() == {devices}'
  done = subprocess.run([sys.executable, '-c', script], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  one, several = np.load(tmp_path / 'one.npy'), np.load(tmp_path / 'n.npy')
  assert one.shape == (30, 8, 8, 48)
  np.testing.assert_allclose(several, one, atol=1e-4 * np.abs(one).max())
