"""What the speed scripts share: two frameworks' functions called in turn, their training steps, medians."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

LEARNING_RATE = 5e-5
CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}


def make_parser(description: str) -> argparse.ArgumentParser:
  """The options of every speed script."""
  parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--clock', choices=CLOCKS, default='wall')
  parser.add_argument('--output')
  return parser


def use_published(folder: str) -> int:
  """Makes a clone of published PyTorch code importable; returns the number of cores, as many as PyTorch's threads."""
  import torch

  cores = len(os.sched_getaffinity(0))
  torch.set_num_threads(cores)
  sys.path.append(folder)  # behind all others, because its folders have common names
  return cores


def squared_error(a, b):
  return ((a - b) ** 2).mean()


def interleaved(functions: Mapping[str, Callable], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
  """Median seconds by name, each function called in turn, the first two rounds not counted."""
  times = {name: [] for name in functions}
  for i in range(repeats + 2):
    for name, function in functions.items():
      time.sleep(0.02)  # threads of the one before stop spinning
      start = clock()
      function()
      if i > 1:
        times[name].append(clock() - start)
  return {name: statistics.median(t) for name, t in times.items()}


def against_torch(seconds: Mapping[str, float]) -> dict:
  """Seconds by name, and how many times as fast 'jax' is as the faster of the others."""
  others = [t for name, t in seconds.items() if name != 'jax']
  return {'seconds': seconds, 'times_as_fast': min(others) / seconds['jax']}


def jax_step(loss: Callable, params) -> Callable[[], float]:
  """A training step with Adam of `loss(params, rng)`; it returns the loss when it is done."""
  optimizer = optax.adam(LEARNING_RATE)

  def step_fn(state):
    params, opt_state, count = state
    value, gradient = jax.value_and_grad(loss)(params, jax.random.fold_in(jax.random.key(0), count))
    updates, opt_state = optimizer.update(gradient, opt_state)
    return (optax.apply_updates(params, updates), opt_state, count + 1), value

  own = jax.tree.map(jnp.copy, params)
  holder = [(own, optimizer.init(own), jnp.zeros((), jnp.int32))]
  step_jit = jax.jit(step_fn, donate_argnums=0)

  def step():
    holder[0], value = step_jit(holder[0])
    return float(value)

  return step


def torch_functions(net, predict: Callable, target) -> tuple[Callable, Callable]:
  """(forward, training step with Adam) of a PyTorch network: `predict()` is its output, compared with `target`."""
  import torch

  optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)

  def forward():
    net.eval()
    with torch.no_grad():
      return predict()

  def step():
    net.train()
    optimizer.zero_grad()
    loss = squared_error(predict(), target)
    loss.backward()
    optimizer.step()
    return loss.item()

  return forward, step
