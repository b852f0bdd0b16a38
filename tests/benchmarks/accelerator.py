"""Checks and times talkjax on this machine: golden cases, and every system's `paper`; launch/accelerator.sh calls it.

  python -m tests.benchmarks.accelerator --output=DIR [--size=paper] [--minutes=8] [--set=KEY=VALUE ...]

Parameters and cached features are random and records come from the small puppets corpus, so that nothing has to be
downloaded. `--size=tiny` tries every part on a CPU. Jobs that would begin after `--minutes` are listed as skipped.
Writes DIR/accelerator.json and DIR/accelerator.md after every job, and a profile of every training step to DIR/profile.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDENS = 'tiny or dve_unet or steps or schedule or guider or vexpress_audio'  # those that take seconds
# Latents are cached, as in every long training.
CACHED = '--config.data.feature_cache=random'
# Faces are found by MediaPipe, as Deep3DFaceRecon, which `paper` has, needs weights; they are no part of the times.
MESH = tuple(
  f'--config.morphable.{name}={value}'
  for name, value in (('name', 'mesh_pca'), ('vertices', 468), ('triangles', 852), ('mouth', 40), ('rigid', 187))
)
# Name, config, options; the most telling first.
JOBS = (
  ('emo stage 2; a clip, unguided', 'emo.py:{size},stage=2', (CACHED, '--config.guidance=1.0')),
  ('emo stage 1', 'emo.py:{size},stage=1', (CACHED, '--training_only')),
  ('vexpress stage 3; 31 s of video', 'vexpress.py:{size},stage=3', (CACHED, '--seconds={seconds}')),
  ('speech_edit; a frame', 'speech_edit.py:{size}', ()),
  ('fd2talk stage 3; a frame', 'fd2talk.py:{size},stage=3', ('--config.motion=true', *MESH)),
  ('joint_av; a window', 'joint_av.py:{size}', ('--config.data.segments=any',)),
  ('fd2talk stage 1', 'fd2talk.py:{size},stage=1', ('--training_only',)),
  ('emo stage 3; a clip, guided', 'emo.py:{size},stage=3', (CACHED,)),
  ('vexpress stage 2', 'vexpress.py:{size},stage=2', (CACHED, '--training_only')),
  ('vexpress stage 1', 'vexpress.py:{size},stage=1', (CACHED, '--training_only')),
  ('wav2lip; a frame', 'wav2lip.py:{size}', ()),
  ('super_resolution; a frame', 'super_resolution.py:{size}', ()),
  ('fd2talk stage 2', 'fd2talk.py:{size},stage=2', ('--training_only',)),
  ('caption_classifier', 'caption_classifier.py:{size}', ('--training_only',)),
  ('lip_expert', 'lip_expert.py:{size}', ('--training_only',)),
)
COLUMNS = {
  'batch_size': 'Batch',
  'step_seconds': 'Step, s',
  'share_of_matmul': 'Share of matmul rate',
  'peak_device_bytes': 'Peak memory, GB',
  'compile_seconds': 'Compilation, s',
  'generated_seconds': 'Clip or frame, s',
  'long_video_seconds': 'Long video, s',
  'long_video_frames': 'Its frames',
}


def run(command: list[str], seconds: float, **env: str) -> tuple[int, str]:
  """(exit code, output) of a command, stopped after `seconds`."""
  env = {**os.environ, **env}
  try:
    done = subprocess.run(
      command, cwd=ROOT, env=env, timeout=seconds, check=False, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
  except subprocess.TimeoutExpired:
    return 124, f'stopped after {seconds:.0f} s'
  return done.returncode, done.stdout


def table(report: dict) -> str:
  """The report as a table in Markdown."""
  lines = [f'{report["device"]}; matrix product {report["matmul_gflops"]:,.0f} GFLOP/s', '']
  lines += [f'Golden cases: {report["goldens"]}', '']
  lines += ['| Job | ' + ' | '.join(COLUMNS.values()) + ' |', '|---' * (1 + len(COLUMNS)) + '|']
  for name, figures in report['jobs'].items():
    if 'failed' in figures:
      lines.append(f'| {name} | {figures["failed"]}' + ' |' * len(COLUMNS))
      continue
    cells = [figures.get(key) for key in COLUMNS]
    lines.append(f'| {name} | ' + ' | '.join('' if c is None else f'{c:,.4g}' for c in cells) + ' |')
  profiled = {k: v['share_of_matmul'] for k, v in report['jobs'].items() if v.get('profile')}
  if profiled:
    worst = min(profiled, key=profiled.get)
    lines += [
      '',
      f'The step furthest from the matmul rate is that of {worst}; its costliest operations, ms a step:',
      '',
    ]
    rows = report['jobs'][worst]['profile']
    lines += [f'- {row["ms_per_step"]:.2f} ({row["calls_per_step"]:.0f} calls): `{row["operation"]}`' for row in rows]
  return '\n'.join(lines) + '\n'


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--output', required=True)
  parser.add_argument('--size', default='paper')
  parser.add_argument('--minutes', type=float, default=8)
  parser.add_argument('--seconds', type=float, default=31, help='of the long video')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--only', default='', help='jobs whose names have this, and no golden cases')
  parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', help='of every config')
  args = parser.parse_args()
  start, output = time.monotonic(), pathlib.Path(args.output).absolute()
  output.mkdir(parents=True, exist_ok=True)
  python = [sys.executable, '-m']
  data = output / 'datasets'
  code, text = run([*python, 'talkjax.build', 'data/puppets', '--config=tiny', f'--data_dir={data}'], 300)
  if code:
    print(text[-3000:], file=sys.stderr)
    return 1

  report = {'device': '', 'matmul_gflops': float('nan'), 'goldens': 'not run', 'jobs': {}}
  failed = 0
  if not args.only:
    # At full precision: by default an accelerator rounds the factors of float32 products.
    goldens = [*python, 'pytest', '-q', '-x', 'tests/test_goldens.py', '-m', 'not slow', '-k', GOLDENS]
    code, text = run(goldens, 240, JAX_DEFAULT_MATMUL_PRECISION='highest')
    failed += bool(code)
    report['goldens'] = text.strip().splitlines()[-1]
    print('golden cases:', report['goldens'], flush=True)
  for name, config, options in JOBS:
    left = 60 * args.minutes - (time.monotonic() - start)
    if args.only not in name:
      continue
    if left < 0:
      report['jobs'][name] = {'failed': 'skipped: no time left'}
      continue
    fill = {'size': args.size, 'output': output, 'seconds': args.seconds}
    file = output / 'job.json'
    file.unlink(missing_ok=True)
    shared = [f'--output={file}', f'--repeats={args.repeats}', f'--config.data.dir={data}']
    shared += [
      f'--profile={output}/profile/{name.split(";")[0].replace(" ", "_")}',
      '--config.data.corpus=puppets/tiny',
      '--config.data.workers=0',
      *(f'--config.{s}' for s in args.set),
    ]
    own = [option.format(**fill) for option in options]
    if args.size != 'paper':  # nothing is cached, and the motion of joint_av has no renderer
      own = [option for option in own if option != CACHED] + ['--training_only'] * ('joint_av' in config)
    command = [*python, 'talkjax.benchmark', f'--config=configs/{config.format(**fill)}', *shared]
    code, text = run([*command, *own], left + 60)
    if code:
      failed += 1
      figures = {'failed': (text.strip().splitlines() or ['no output'])[-1][:300]}
    else:
      figures = json.loads(file.read_text())
      figures |= {k: figures[k] / 1e9 for k in ('peak_device_bytes',) if k in figures}
      if 'generated_frames_per_second' in figures:
        figures['generated_seconds'] = figures['generated_frames'] / figures['generated_frames_per_second']
      report |= {k: figures[k] for k in ('device', 'matmul_gflops')}
    report['jobs'][name] = figures
    (output / 'accelerator.json').write_text(json.dumps(report, indent=2) + '\n')
    (output / 'accelerator.md').write_text(table(report))
    print(name, {k: v for k, v in figures.items() if k in COLUMNS or k == 'failed'}, flush=True)
  print(table(report))
  return min(failed, 1)


if __name__ == '__main__':
  sys.exit(main())
