"""How a workdir is scored: generates corpus records with what was trained, and runs suites over them.

`talkjax.evaluate` is the command.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import tqdm
from flax.traverse_util import flatten_dict

from talkjax import systems
from talkjax.corpora import feature_cache, perturb
from talkjax.corpora.perturb import one_by_one
from talkjax.corpora.records import Record
from talkjax.faces import landmarks, measures
from talkjax.media import picture, video
from talkjax.media.segments import AUDIO_RATE
from talkjax.metrics import lips
from talkjax.metrics.footage import Footage
from talkjax.metrics.suites import Clip, Context, Generated, Suite, SuiteRun, mouth_opening
from talkjax.systems import joined
from talkjax.training import input_pipeline, sharding
from talkjax.weights.scoring import Network


@dataclasses.dataclass(frozen=True)
class Scores:
  """The scores of a workdir: a row per clip, their means with those of the whole set, their printed names, and a strip.

  The strip has truth above and generated below, of the clip with the best lip score and of that with the worst.
  """

  rows: list[dict]
  means: dict
  names: tuple[str, ...]
  strip: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
  """How clips are generated and paired.

  Attributes:
    batch_size: clips at once.
    seed: of noise, pairing and rotation.
    rotate: other speech starts at a random time, circularly.
    oracle: `System.oracle` is taken from the true video, and the names of scores begin with `oracle_`.
    videos: a folder; for each clip, its video as the corpus has it goes to `source/`, the truth to `true/`, and what
      was generated, with the sound that drove it, to `generated/` and `other_speech/`.
  """

  batch_size: int = 10
  seed: int = 0
  rotate: bool = False
  oracle: bool = False
  videos: str | None = None


def score_workdir(
  system: systems.System,
  config,
  params,
  clips: Sequence[Record],
  settings: Settings,
  suites: Sequence[Suite] | None = None,
  networks: Mapping[str, Any] | None = None,
) -> Scores:
  """Generates records with what was trained, and scores them.

  Clips are read when they are used, so memory does not grow with their number. Those of a batch are split over the
  devices where the parameters are.

  Args:
    system, config, params: what was trained.
    clips: records by index, each of which is read several times.
    settings: see `Settings`.
    suites: which are run; None: those of the system.
    networks: for scores that need them, by name.
  """
  suites = system.scores if suites is None else suites
  seed, batch_size = settings.seed, settings.batch_size
  prefix = 'oracle_' if settings.oracle else ''
  generator = np.random.default_rng(seed)
  texts, speakers, lengths = zip(*((c.transcript or c.id, c.speaker, len(c.frames)) for c in one_by_one(clips)))
  others = lips.other_speech(texts, seed)
  starts = [int(generator.integers(lengths[i])) for i in others] if settings.rotate else None
  context = _context(system, config, clips, frozenset(speakers), networks or {})
  run = SuiteRun(suites, context)
  rows, extremes = [], Extremes()
  # Suites of pairs look at nothing but the clips themselves.
  twice = bool(settings.videos) or not all(suite.pairs for suite in suites)
  bar = tqdm.tqdm(total=(1 + twice) * len(clips), unit='clip')

  def read_other(i: int) -> Record:
    other = clips[others[i]]
    return perturb.rotated(other, starts[i]) if starts else other

  def score_batch(numbers: range) -> None:
    batch, speech = [clips[i] for i in numbers], [read_other(i) for i in numbers]
    seeds = np.arange(seed + numbers.start, seed + numbers.stop, dtype=np.uint32)
    truth, own = generate_clips(system, params, batch, seeds, oracle=settings.oracle)
    bar.update(len(batch))
    other = own
    if twice:
      _, other = generate_clips(system, params, batch, seeds, speech, oracle=settings.oracle)
      bar.update(len(batch))
    for scored in map(Clip, batch, speech, truth, own, other):
      row = {'name': scored.record.id, 'person': scored.record.speaker}
      row |= {'frames': len(scored.truth.frames or scored.record.frames)}
      row |= {prefix + name: value for name, value in run.score(scored).items()}
      rows.append(row)
      if system.generate:
        extremes.add(scored.truth.frames, scored.generated.frames, row.get(f'{prefix}lip_score'))
      if settings.videos:
        _write_videos(pathlib.Path(settings.videos), scored)

  for start in range(0, len(clips), batch_size):
    score_batch(range(start, min(start + batch_size, len(clips))))
  bar.close()
  means = _means(rows) | {prefix + name: value for name, value in run.total().items()}
  names = dict.fromkeys(prefix + name for suite in suites for name in suite.scores)
  return Scores(rows, means, tuple(names), extremes.strip())


@dataclasses.dataclass
class Extremes:
  """The clips with the best and the worst lip score so far; before any has one, the first clip."""

  best: tuple | None = None
  worst: tuple | None = None

  def add(self, truth: Sequence[np.ndarray], generated: Sequence[np.ndarray], score: float | None) -> None:
    rows = [picture.spread(frames[: min(len(truth), len(generated))]) for frames in (truth, generated)]
    if self.best is None or (score is not None and (self.best[0] is None or score > self.best[0])):
      self.best = (score, rows)
    if score is not None and (self.worst is None or score < self.worst[0]):
      self.worst = (score, rows)

  def strip(self) -> np.ndarray | None:
    """Truth above generated, of the best and the worst, with their lip scores."""
    shown = [entry for entry in (self.best, self.worst) if entry]
    if len(shown) < 2 or shown[0][1] is shown[1][1]:
      return picture.strip(shown[0][1]) if shown else None
    rows = [row for _, pair in shown for row in pair]
    labels = [f'{name} {score:.2f}' for name, (score, _) in zip(('best', 'worst'), shown)]
    return picture.strip(rows, labels=[labels[0], '', labels[1], ''])


def generate_clips(
  system,
  params,
  clips: Sequence[Record],
  seeds: np.ndarray,
  speech: Sequence[Record] | None = None,
  *,
  oracle: bool = False,
  **settings,
) -> tuple[tuple, list[Generated]]:
  """(the truth, what is generated or predicted) of records; a generated clip is as long as its truth.

  Args:
    system, params: what was trained.
    clips: the records.
    seeds: [b] uint32.
    speech: as many records whose sound is used instead.
    oracle: of a system that has it, see `System.oracle`.
    **settings: values [b] of sweepable options.
  """
  if system.predict:
    return system.predict(params, clips, speech)
  # Filled up to a multiple of the devices, over which only such a batch is split.
  devices = sharding.num_devices(params)
  numbers = np.arange(-(-len(clips) // devices) * devices) % len(clips)
  fill = lambda values: [values[i] for i in numbers]
  batch = system.from_records(
    fill(clips),
    speech=speech and fill(speech),
    settings={name: np.asarray(values)[numbers] for name, values in settings.items()},
    **({'oracle': True} if oracle else {}),
  )
  chunk = systems.join(system.generate(params, batch.conditions, np.asarray(seeds)[numbers]))
  truths = batch.truth[: len(clips)]
  seams = chunk.seams or ((),) * len(numbers)
  generated = []
  for i, truth in enumerate(truths):
    count = len(truth.frames)
    sound = None if chunk.sound is None else chunk.sound[i, : round(count / chunk.fps * chunk.sound_rate)]
    within = tuple(s for s in seams[i] if s < count)
    generated.append(Generated(list(chunk.frames[i, :count]), chunk.fps, within, sound, chunk.sound_rate))
  return truths, generated


def _context(system, config, clips, speakers: frozenset[str], networks: Mapping[str, Any]) -> Context:
  def people():
    yield from one_by_one(clips)
    if input_pipeline.has_split(config.data, config.data.split):  # which a corpus for evaluation alone may lack
      yield from input_pipeline.eval_records(config.data, config.data.split)

  first = lambda record: system.from_records([record], num_frames=1).truth[0]
  return Context(
    mouth=config.data.get('mouth', ''),
    speakers=speakers,
    people=people,
    first_frame=lambda record: first(record).frames[0],
    training=lambda: ((r, first(r)) for r in input_pipeline.eval_records(config.data, config.data.split)),
    networks=networks,
  )


def _write_videos(folder: pathlib.Path, clip: Clip) -> None:
  source = [clip.record.frame(i) for i in range(len(clip.record.frames))]
  own, other = (r.audio.astype(np.float32) / 32768 for r in (clip.record, clip.other))
  fps = clip.record.fps
  videos = {
    'source': Generated(source, fps, sound=own),
    'true': Generated(clip.truth.frames, fps, sound=own),
    'generated': clip.generated,
    'other_speech': clip.with_other_speech,
  }
  for kind, shown in videos.items():
    sound, rate = shown.sound, shown.sound_rate
    if sound is None:
      sound, rate = other if kind == 'other_speech' else own, AUDIO_RATE
    path = folder / kind / f'{clip.record.id}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = sound[: round(len(shown.frames) / shown.fps * rate)]
    with video.VideoWriter(path, shown.fps, shown.frames[0].shape[:2], samples, rate) as writer:
      for frame in shown.frames:
        writer.write(frame)


def load_lip_expert(workdir: str) -> Network:
  """A lip expert as a network of scores, see `talkjax.metrics.sync.by_expert`.

  Raises:
    UserError: the workdir cannot be read, or is not of a lip expert.
  """
  expert = joined.open_joined('lip_expert', None, None, 'embed_lips', workdir)
  params = flatten_dict(expert.params, sep='/')
  key = feature_cache.fingerprint({path: np.asarray(x) for path, x in params.items()})
  return Network(key, {'embed': functools.partial(_embed_lips, expert)})


def _embed_lips(expert: joined.Joined, footage: Footage) -> Mapping[str, np.ndarray]:
  sound = footage.sound()
  if footage.faces is None or sound is None:
    return {}
  return expert.system.embed_lips(expert.params, footage.frames, footage.faces, footage.fps, sound)


def sweep(
  system, config, params, clips: Sequence[Record], option: str, values: Sequence[float], seed: int
) -> dict[str, tuple]:
  """What an option does to heads and mouths.

  Args:
    system, config, params: what was trained.
    clips: records, whose portraits and sound are used.
    option: a sweepable one.
    values: of it.
    seed: of the noise.

  Returns:
    By name (`head_speed`, degrees/s; `mouth_opening` in the quarter of the frames whose true mouth is open widest; its
    standard deviation over time, `mouth_motion`): the clips' mean at each value, and the mean over clips of Spearman's
    rank correlation with the values.
  """
  seeds = np.arange(seed, seed + len(clips), dtype=np.uint32)
  measured = {'head_speed': [], 'mouth_opening': [], 'mouth_motion': []}
  opening = lambda frames, truth: mouth_opening(frames, truth.landmarks, config.data.mouth)
  true = None
  for value in values:
    truth, generated = generate_clips(system, params, clips, seeds, **{option: np.full(len(clips), value)})
    true = true or [opening(t.frames, t) for t in truth]
    tracks = [(landmarks.track(g.frames), g.fps) for g in generated]
    measured['head_speed'].append([measures.head_speed(t.pose, fps).mean() if t else np.nan for t, fps in tracks])
    openings = [opening(g.frames, t) for g, t in zip(generated, truth)]
    measured['mouth_opening'].append([o[t >= np.quantile(t, 0.75)].mean() for o, t in zip(openings, true)])
    measured['mouth_motion'].append([np.std(o) for o in openings])
  result = {}
  for name, rows in measured.items():
    table = np.array(rows)  # [values, clips]
    # Where no face was found, or nothing changes, there is no rank.
    table = table[:, np.isfinite(table).all(0)]
    ranks = [scipy.stats.spearmanr(values, column).statistic for column in table.T if np.ptp(column)]
    result[name] = (table.mean(1).tolist() if table.size else [], float(np.mean(ranks)) if ranks else None)
  return result


def _means(rows: list[dict]) -> dict:
  names = [k for k in rows[0] if k not in ('name', 'person', 'frames')]
  values = {k: np.array([r[k] for r in rows], float) for k in names}
  means = {k: float(np.nanmean(v)) if np.isfinite(v).any() else None for k, v in values.items()}
  return {'clips': len(rows), 'frames': sum(r['frames'] for r in rows), **means}
