"""Makes attempts on the commands and judges what became of them.

`python -m tests.hostile.harness LOG` prints the table of the attempts in a log (TALKJAX_HOSTILE_LOG), in Markdown.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import select
import shutil
import signal
import subprocess
import sys

from tests.commands import ROOT

SECONDS = int(os.environ.get('TALKJAX_HOSTILE_SECONDS', '60'))  # for one attempt; more is a hang, or a busy machine
MIB = 8192  # of the process that makes all attempts
LOG = os.environ.get('TALKJAX_HOSTILE_LOG')  # the file to which each attempt adds a line of JSON
OUTCOMES = {0: 'done', 1: 'refused', 2: 'usage'}  # by exit code
UNFORESEEN = 'its traceback is in '


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a command: its exit code and what it printed; `ended` is '' or how its process failed.

  `mib` are the most that its process has had, `seconds` those of the processor.
  """

  code: int | None
  out: str = ''
  err: str = ''
  ended: str = ''
  mib: int = 0
  seconds: float = 0.0

  @property
  def sentence(self) -> str:
    """The last line on stderr."""
    return self.err.strip().splitlines()[-1] if self.err.strip() else ''


class Server:
  """A process that runs commands, and is started again after a crash or a hang."""

  def __init__(self, temporary: pathlib.Path):
    self._process, self._answers = None, None
    self._temporary, self._log = temporary, temporary.with_suffix('.log')

  def run(self, module: str, args: list[str], folder: str, cached: bool) -> Outcome:
    """Runs `python -m module args` in a folder."""
    if self._process is None:
      self._start()
    job = {'module': module, 'args': args, 'folder': folder, 'cached': cached}
    self._process.stdin.write(json.dumps(job).encode() + b'\n')
    self._process.stdin.flush()
    line = b''
    while not line.endswith(b'\n'):
      if not select.select([self._answers], [], [], SECONDS)[0]:
        self.close()
        return Outcome(None, ended=f'hangs for {SECONDS} s')
      part = os.read(self._answers, 1 << 20)
      if not part:
        code = self._process.wait()
        self.close()
        return Outcome(None, ended=f'crashes (exit code {code}): {self._log.read_text(errors="replace")[-2000:]}')
      line += part
    return Outcome(**json.loads(line))

  def _start(self) -> None:
    self._answers, theirs = os.pipe()
    environment = {**os.environ, 'TMPDIR': str(self._temporary), 'JAX_PLATFORMS': 'cpu', 'PYTHONFAULTHANDLER': '1'}
    with self._log.open('w') as log:
      self._process = subprocess.Popen(
        [sys.executable, '-m', 'tests.hostile.server', str(theirs)],
        stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=[theirs], env=environment, cwd=ROOT,
        start_new_session=True,
      )  # fmt: skip
    os.close(theirs)

  def close(self) -> None:
    if self._process is not None:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)  # its workers too
      self._process.wait()
      self._process.stdin.close()
      os.close(self._answers)
    self._process = None


class Attempts:
  """Makes attempts and keeps account of them.

  Attributes:
    counts: by class, how many attempts were made.
    problems: of the current class, a text for each attempt that ended as none should.
  """

  def __init__(self, root: pathlib.Path):
    self.temporary, self.watched, self._out = root / 'tmp', [root / 'inputs'], root / 'out'
    for folder in (self.temporary, self.watched[0], self._out):
      folder.mkdir(parents=True)
    self._server = Server(self.temporary)
    self.counts = collections.Counter()
    self.problems: list[str] = []

  @property
  def inputs(self) -> pathlib.Path:
    return self.watched[0]

  def make(
    self, kind: str, module: str, *args: str, cached: bool = True, works: bool | None = None, writes: bool = False
  ) -> Outcome:
    """Runs a command in a new folder and judges it.

    Args:
      kind: the class that it counts for.
      module: of talkjax.
      *args: of its command line, in which {out} is that folder.
      cached: use the weights that an earlier attempt read.
      works: whether it has to succeed or to fail; None: either.
      writes: whether it may leave files when it fails: a training that began.
    """
    before = snapshot(self.watched)
    args = [a.replace('{out}', str(self._out)) for a in args]
    outcome = self._server.run(f'talkjax.{module}', args, str(self._out), cached)
    problems = [*judge(outcome, works), *([] if writes else self._left(outcome, before))]
    self._clear()
    self.count(kind, outcome, bool(problems), f'{module} {" ".join(args)}')
    if outcome.mib > MIB:
      self._server.close()
    if problems:
      shown = f'{module} ... {" ".join(args[-2:])[-300:]}: {"; ".join(problems)}'
      said = outcome.sentence or outcome.out[-300:]
      self.problems.append(f'{shown}\n    {said}'.encode(errors='backslashreplace').decode())
      print(self.problems[-1], flush=True)
    return outcome

  def count(self, kind: str, outcome: Outcome, bad: bool = False, command: str = '', times: int = 1) -> None:
    """Counts an attempt, or as many of one outcome as `times`."""
    self.counts[kind] += times
    if LOG:
      what = 'bad' if bad else OUTCOMES[outcome.code]
      seconds, said = round(outcome.seconds, 2), outcome.ended or outcome.sentence
      line = {'class': kind, 'outcome': what, 'times': times, 'seconds': seconds, 'mib': outcome.mib, 'said': said}
      with open(LOG, 'ab') as log:  # several processes write to it
        log.write(json.dumps({**line, 'command': command}).encode() + b'\n')

  def check(self, kind: str, least: int) -> None:
    """Asserts that a class had no bad attempt, and at least so many."""
    problems, self.problems = self.problems, []
    total = self.counts[kind]
    assert not problems, f'{len(problems)} of {total} attempts:\n' + '\n'.join(problems)
    assert total >= least, f'{total} attempts only'

  def _clear(self) -> None:
    """Removes what a command wrote."""
    for path in (*self.temporary.iterdir(), *self._out.iterdir()):
      shutil.rmtree(path) if path.is_dir() else path.unlink()

  def _left(self, outcome: Outcome, before: dict) -> list[str]:
    """What a command changed or left that it should not."""
    after, found = snapshot(self.watched), []
    found += [f'changed {path}' for path in before if after.get(path) != before[path]]
    found += [f'left {path}' for path in after if path not in before]
    litter = [path for path in self.temporary.iterdir() if path.name != '.ses']  # which onnxruntime makes
    made = [p for p in self._out.rglob('*') if not p.is_dir()]
    found += [f'left {path.name}' for path in litter]
    found += [f'left {path.name}' for path in made if outcome.code != 0 or path.name.startswith('.')]
    return found

  def close(self) -> None:
    self._server.close()


def judge(outcome: Outcome, works: bool | None = None) -> list[str]:
  """What is wrong with the end of a command."""
  if outcome.ended:
    return [outcome.ended]
  errors = [line for line in outcome.err.splitlines() if line.startswith('error: ')]
  wrong = {
    'a traceback': 'Traceback' in outcome.err,
    'an unforeseen error': UNFORESEEN in outcome.err,
    f'exit code {outcome.code}': outcome.code not in (0, 1, 2),
    'not one sentence': outcome.code != 0 and (len(errors) != 1 or not outcome.sentence.startswith('error: ')),
    'an error and exit code 0': outcome.code == 0 and bool(errors),
    'a long sentence': len(outcome.sentence) > 1500,
    'it was to work': works is True and outcome.code != 0,
    'it was to fail': works is False and outcome.code == 0,
    f'{outcome.mib} MiB of memory': outcome.mib > MIB,
  }
  return [what for what, is_so in wrong.items() if is_so]


def snapshot(folders) -> dict[str, tuple]:
  """Size and time of every file in folders; links are not followed."""
  found = {}
  for folder in folders:
    for parent, _, names in os.walk(folder):
      for name in names:
        path = os.path.join(parent, name)
        status = os.lstat(path)
        found[path] = status.st_size, status.st_mtime_ns, status.st_ino
  return found


def processor_seconds() -> float:
  """The processor's time of this process and of those that it started, as far as they have ended."""
  uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(use.ru_utime + use.ru_stime for use in uses)


def table(log: pathlib.Path) -> str:
  """What became of the attempts in a log, in Markdown."""
  counts, seconds = {}, collections.Counter()
  for line in map(json.loads, log.read_text().splitlines()):
    counts.setdefault(line['class'], collections.Counter())[line['outcome']] += line['times']
    seconds[line['class']] += line['seconds']
  titles = ('Class', 'Attempts', 'Done', 'Refused (exit code 1)', 'Usage (2)', 'Bad', 'Processor time, s')
  lines = [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']
  for kind, count in counts.items():
    cells = kind, count.total(), *(count[what] for what in (*OUTCOMES.values(), 'bad')), round(seconds[kind])
    lines.append(f'| {" | ".join(map(str, cells))} |')
  return '\n'.join(lines)


if __name__ == '__main__':
  print(table(pathlib.Path(sys.argv[1])))
