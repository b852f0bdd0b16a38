"""One program: what a benchmark compiles and measures is what training runs."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from talkjax import benchmark, cli, train
from talkjax.errors import UserError
from talkjax.training import input_pipeline
from talkjax.training.compile import training_program
from tests.commands import ROOT


class _Stop(Exception):
  """Ends a command before it compiles anything."""


@pytest.fixture
def config(micro, monkeypatch):
  monkeypatch.chdir(ROOT)
  return cli.parse(['train', *micro], train.OPTIONS).config


def test_training_and_benchmark_lower_the_same_step(config, tmp_path, monkeypatch):
  commands = {
    'train': functools.partial(train.train, config, str(tmp_path)),
    'benchmark': functools.partial(benchmark.benchmark, config, 1),
    'compile_only': functools.partial(benchmark.compile_only, config),
  }
  programs = []

  def record(*args):
    programs.append(training_program(*args))
    raise _Stop

  monkeypatch.setattr(train, 'training_program', record)
  monkeypatch.setattr(benchmark, 'training_program', record)
  monkeypatch.setattr(benchmark, '_input', lambda *args: {})  # measures for seconds, and compiles nothing
  texts = []
  for command in commands.values():
    with pytest.raises(_Stop):
      command()
    texts.append(programs[-1].step.lower(programs[-1].state, programs[-1].batch).as_text())
  assert len(texts[0]) > 10_000
  assert texts[1] == texts[0], 'benchmark'
  assert texts[2] == texts[0], 'benchmark --compile_only'
  changed = config.copy_and_resolve_references()
  changed.optimizer.b1 = 0.5
  with pytest.raises(_Stop):
    train.train(changed, str(tmp_path))
  assert programs[-1].step.lower(programs[-1].state, programs[-1].batch).as_text() != texts[0]


def init(rng, batch):
  return {'layer': {'kernel': jax.random.normal(rng, (batch['x'].shape[1], 2))}}


def loss(params, batch, rng, train):
  del rng, train
  return jnp.mean((batch['x'] @ params['layer']['kernel'] - batch['y']) ** 2), {}


SYSTEM = types.SimpleNamespace(init=init, loss=loss, frozen=(), cpu_options={})


def small(**changes):
  made = common.base()
  made.update({'batch_size': 8, 'steps': 10})
  made.update_from_flattened_dict(changes)
  return made


def example(count):
  r = np.random.default_rng(0)
  return {'x': r.standard_normal((count, 3), np.float32), 'y': r.standard_normal((count, 2), np.float32)}


def test_arrays_lower_to_the_program_of_the_shapes():
  """Training calls the step with arrays, benchmarks compile it from shapes."""
  program = training_program(small(), SYSTEM, example(8))
  state = program.create(jax.random.key(0))
  batch = input_pipeline.to_device(example(8), program.batch_layout)
  assert program.step.lower(state, batch).as_text() == program.step.lower(program.state, program.batch).as_text()
  described = lambda tree: [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(tree)]
  assert described(state) == described(program.state) and described(batch) == described(program.batch)


def test_a_batch_has_the_size_of_the_config_not_of_the_example():
  programs = [training_program(small(), SYSTEM, example(count)) for count in (1, 8)]
  assert {k: s.shape for k, s in programs[0].batch.items()} == {'x': (8, 3), 'y': (8, 2)}
  texts = [p.step.lower(p.state, p.batch).as_text() for p in programs]
  assert texts[0] == texts[1]


def test_the_step_counts_and_its_state_is_donated():
  program = training_program(small(), SYSTEM, example(8))
  state = program.create(jax.random.key(0))
  after, metrics = program.step(state, input_pipeline.to_device(example(8), program.batch_layout))
  assert int(after.step) == int(program.create(jax.random.key(0)).step) + 1 == 1
  assert np.isfinite(metrics['loss']) and state.params['layer']['kernel'].is_deleted()


def test_the_step_is_compiled_with_the_options_of_the_system():
  without = types.SimpleNamespace(**{**vars(SYSTEM), 'cpu_options': {'xla_disable_hlo_passes': 'fusion'}})
  programs = [training_program(small(), system, example(8)) for system in (SYSTEM, without)]
  fused, unfused = (p.step.lower(p.state, p.batch).compile().as_text() for p in programs)
  assert 'add_fusion' in fused and 'add_fusion' not in unfused


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
  with pytest.raises(UserError, match='does not cover 1 devices'):
    training_program(small(**{'mesh.fsdp': 2}), SYSTEM, example(1))
  with pytest.raises(UserError, match="'encoder' names no parameter"):
    training_program(small(train=(('encoder', True),)), SYSTEM, example(1))
