"""The train state, the optimiser and the training step."""

import difflib
import re
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from talkjax.errors import UserError
from talkjax.training.sharding import path_name

PyTree = Any


class State(flax.struct.PyTreeNode):
  """All that a step changes. `ema` and `opt_state` cover only trainable leaves: frozen ones are None in `ema`."""

  step: jax.Array  # int32, number of completed steps
  params: PyTree
  ema: PyTree
  opt_state: PyTree

  @property
  def averaged(self) -> PyTree:
    """The parameters that generate best: the averages of trainable ones, and the frozen ones."""
    return join(self.ema, self.params)


def learning_rate_multipliers(params: PyTree, patterns) -> PyTree:
  """The learning rate multiplier of every leaf; 0 freezes it.

  Args:
    params: the parameter tree.
    patterns: sequence of (regex, multiplier): the first regex found in a leaf's path ('unet/in_conv/kernel') decides.
      True is 1, False is 0, 0.1 trains at a tenth of the learning rate. A leaf that matches no regex is frozen.

  Raises:
    UserError: a regex matches no leaf (the message lists similar names), a multiplier is below 0, or all are 0.
  """
  names = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
  for regex, multiplier in patterns:
    if not any(re.search(regex, n) for n in names):
      parts = {'/'.join(n.split('/')[:depth]) for n in names for depth in (1, 2, 3)}
      near = difflib.get_close_matches(regex.strip('^$.*/'), sorted(parts), n=6, cutoff=0.5)
      near = near or sorted({'/'.join(n.split('/')[:2]) for n in names})[:12]
      raise UserError(f'config.train: {regex!r} names no parameter; similar names are {", ".join(near)}')
    if not (isinstance(multiplier, (bool, int, float)) and multiplier >= 0):
      raise UserError(
        f'config.train: {regex!r} has {multiplier!r}: expected True, False, or a factor of the learning rate'
      )

  def multiplier_of(path, _):
    name = path_name(path)
    return next((float(multiplier) for regex, multiplier in patterns if re.search(regex, name)), 0.0)

  multipliers = jax.tree_util.tree_map_with_path(multiplier_of, params)
  if not any(jax.tree.leaves(multipliers)):
    raise UserError('config.train freezes every parameter: name at least one that trains')
  return multipliers


def trainable_mask(params: PyTree, patterns) -> PyTree:
  """True for every trainable leaf, see `learning_rate_multipliers`."""
  return jax.tree.map(bool, learning_rate_multipliers(params, patterns))


def split(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
  """(leaves where mask is True, leaves where it is False); the others are None, which is no leaf for JAX."""
  pick = lambda keep: jax.tree.map(lambda m, x: x if m is keep else None, mask, tree)
  return pick(True), pick(False)


def join(a: PyTree, b: PyTree) -> PyTree:
  """The inverse of `split`."""
  return jax.tree.map(lambda x, y: y if x is None else x, a, b, is_leaf=lambda x: x is None)


def learning_rate(optimizer, steps: int) -> optax.Schedule:
  """Linear warm-up to `optimizer.learning_rate`, then `optimizer.schedule`: constant, or cosine or linear to zero."""
  peak, warmup = optimizer.learning_rate, optimizer.warmup
  after = {
    'constant': lambda n: optax.constant_schedule(peak),
    'cosine': lambda n: optax.cosine_decay_schedule(peak, n),
    'linear': lambda n: optax.linear_schedule(peak, 0.0, n),
  }
  if optimizer.schedule not in after:
    raise UserError(f'config.optimizer.schedule={optimizer.schedule!r} is not one of {", ".join(after)}')
  decay = after[optimizer.schedule](max(1, steps - warmup))
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup]) if warmup else decay


def make_optimizer(optimizer, steps: int) -> optax.GradientTransformation:
  """Clipping by global norm, Adam(W) and the schedule; `make_step` implements `optimizer.accumulate`."""
  return optax.chain(
    optax.clip_by_global_norm(optimizer.clip) if optimizer.clip else optax.identity(),
    optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps),
    optax.add_decayed_weights(optimizer.weight_decay) if optimizer.weight_decay else optax.identity(),
    optax.scale_by_learning_rate(learning_rate(optimizer, steps)),
  )


def create(init: Callable, optimizer: optax.GradientTransformation, patterns, rng: jax.Array, batch: PyTree) -> State:
  """A new state from `init(rng, batch) -> params`; jit it with out_shardings, so no device needs to hold all of it."""
  params = init(rng, batch)
  trainable, _ = split(params, trainable_mask(params, patterns))
  # The EMA is a separate buffer from the start, because a donated state must not contain a buffer twice.
  ema = jax.tree.map(lambda x: x + jnp.zeros_like(x), trainable)
  return State(jnp.zeros((), jnp.int32), params, ema, optimizer.init(trainable))


def make_step(
  loss: Callable, optimizer: optax.GradientTransformation, patterns, *, ema: float, accumulate: int, seed: int
):
  """The training step `(state, batch) -> (state, metrics)`, to be jitted with the state donated.

  Args:
    loss: a system's `loss(params, batch, rng, train) -> (loss, metrics)`.
    optimizer: from `make_optimizer`.
    patterns: which parameters train, and how fast, see `learning_rate_multipliers`.
    ema: decay of the exponential moving average of the parameters. It is warmed up, min(ema, (1 + step) / (10 + step)),
      so that initial parameters do not dominate the average of a short run.
    accumulate: microbatches per step; gradients are averaged over them.
    seed: the step's randomness is fold_in(key(seed), step), so a resumed run draws the same random numbers.
  """

  def step(state: State, batch):
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    multipliers = learning_rate_multipliers(state.params, patterns)
    mask = jax.tree.map(bool, multipliers)
    trainable, frozen = split(state.params, mask)

    def compute(trainable, batch, rng):
      return loss(join(trainable, frozen), batch, rng, True)

    gradient = jax.value_and_grad(compute, has_aux=True)
    if accumulate == 1:
      (value, metrics), grads = gradient(trainable, batch, rng)
    else:
      micro = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)
      evaluate = lambda i, b: gradient(trainable, b, jax.random.fold_in(rng, i))

      def body(total, item):
        return jax.tree.map(jnp.add, total, evaluate(*item)), None

      shapes = jax.eval_shape(evaluate, 0, jax.tree.map(lambda x: x[0], micro))
      zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      total, _ = jax.lax.scan(body, zeros, (jnp.arange(accumulate), micro))
      (value, metrics), grads = jax.tree.map(lambda x: x / accumulate, total)

    updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
    updates = jax.tree.map(lambda u, m: u * m if m != 1 else u, updates, split(multipliers, mask)[0])
    trainable = optax.apply_updates(trainable, updates)
    decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
    average = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, trainable)
    metrics = {'loss': value, 'grad_norm': optax.tree.norm(grads), **metrics}
    return State(state.step + 1, join(trainable, frozen), average, opt_state), metrics

  return step
