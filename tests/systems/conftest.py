"""The last stages of the portrait systems, compiled once a session."""

import dataclasses
import functools

import pytest

from talkjax.systems.sampling import make_table
from talkjax.systems.vexpress import generation, model
from tests import micro


@pytest.fixture(scope='session')
def emo(puppets):
  """Stage 3 of emo, see `micro.setup`."""
  return micro.setup(micro.emo_config(3, puppets))


@pytest.fixture(scope='session')
def vexpress(puppets):
  """Stage 3 of vexpress, see `micro.setup`, and the `sampler` that generates."""
  made = micro.setup(micro.vexpress_config(3, puppets, **{'windows.batch_size': 2}))
  made.sampler = generation.Sampler(model.make_networks(made.config), made.config, make_table(made.config))
  made.system = dataclasses.replace(made.system, generate=functools.partial(generation.generate, sampler=made.sampler))
  return made
