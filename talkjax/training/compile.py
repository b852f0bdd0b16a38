"""The compiled training step of a config: how state and step are assembled, for training and for benchmarks."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from talkjax.training import sharding, state

_UNOPTIMISED = {'xla_backend_optimization_level': 0}


@dataclasses.dataclass(frozen=True)
class Program:
  """The two compiled functions of training and where their arrays are.

  Attributes:
    create: random key -> a fresh state.
    step: (state, batch) -> (state, metrics); the state is donated.
    state: the shapes of a state, with their shardings.
    batch: the shapes of a batch, with their shardings.
    layout: shardings of a state.
    batch_layout: sharding of the arrays of a batch.
  """

  create: jax.stages.Wrapped
  step: jax.stages.Wrapped
  state: state.State
  batch: Mapping[str, jax.ShapeDtypeStruct]
  layout: state.State
  batch_layout: jax.sharding.Sharding


def train_patterns(config, system) -> tuple[tuple[str, bool | float], ...]:
  """`config.train` preceded by the system's frozen branches, see `state.learning_rate_multipliers`."""
  return (*((f'^{branch}/', False) for branch in system.frozen), *config.train)


def training_program(config, system, example: Mapping[str, jax.Array]) -> Program:
  """The program of a config; nothing is compiled or allocated yet.

  Args:
    config: of the system.
    system: with `init`, `loss`, `frozen` and `cpu_options`.
    example: arrays with examples along axis 0, of any number; a batch has `config.batch_size`.

  Raises:
    UserError: the mesh does not cover the devices, or `config.train` fits no parameter.
  """
  patterns = train_patterns(config, system)
  mesh = sharding.make_mesh(config.mesh, config.batch_size // config.optimizer.accumulate)
  optimizer = state.make_optimizer(config.optimizer, config.steps)
  batch_layout = sharding.batch_sharding(mesh)
  # Shapes carry their shardings as the arrays will: attention depends on them (`talkjax.nn.attention`).
  batch = {
    k: jax.ShapeDtypeStruct((config.batch_size, *v.shape[1:]), v.dtype, sharding=batch_layout)
    for k, v in example.items()
  }

  def create(rng):
    zeros = {k: jnp.zeros(s.shape, s.dtype) for k, s in batch.items()}
    return state.create(system.init, optimizer, patterns, rng, zeros)

  shapes = jax.eval_shape(create, jax.random.key(config.seed))
  layout = sharding.tree_shardings(shapes, mesh, config.rules)
  accumulate = config.optimizer.accumulate
  step = state.make_step(system.loss, optimizer, patterns, ema=config.ema, accumulate=accumulate, seed=config.seed)
  on_cpu = jax.default_backend() == 'cpu'
  return Program(
    # Runs once: unoptimised code is compiled in half the time.
    create=jax.jit(create, out_shardings=layout, compiler_options=_UNOPTIMISED if on_cpu else None),
    step=jax.jit(
      step,
      compiler_options=dict(system.cpu_options) if on_cpu else None,
      in_shardings=(layout, batch_layout),
      out_shardings=(layout, sharding.replicated(mesh)),
      donate_argnums=0,
    ),
    state=jax.tree.map(lambda s, l: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=l), shapes, layout),
    batch=batch,
    layout=layout,
    batch_layout=batch_layout,
  )
