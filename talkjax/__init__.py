"""Talking-head diffusion systems: `talkjax.load` generates with one that was trained or converted."""


def load(workdir, weights: str = 'ema'):
  """A trained or converted workdir that generates, a `talkjax.pipeline.Pipeline`.

  Args:
    workdir: of talkjax.train or talkjax.convert.
    weights: 'ema', the averaged ones, or 'params', the last raw ones.

  Raises:
    UserError: it is not a workdir.
  """
  from talkjax.pipeline import Pipeline  # here, so that `import talkjax` stays cheap

  return Pipeline(workdir, weights)
