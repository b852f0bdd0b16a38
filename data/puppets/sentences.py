"""Sentences of the corpus: GRID grammar, and free English sentences written for this corpus."""

import numpy as np

# GRID: command colour preposition letter digit adverb ("An audio-visual corpus for speech perception and automatic
# speech recognition", Cooke et al. 2006). W, the only letter with three syllables, does not occur.
COMMANDS = ('bin', 'lay', 'place', 'set')
COLOURS = ('blue', 'green', 'red', 'white')
PREPOSITIONS = ('at', 'by', 'in', 'with')
LETTERS = tuple('abcdefghijklmnopqrstuvxyz')
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
ADVERBS = ('again', 'now', 'please', 'soon')

FREE = (
  'my brother made a huge apple pie',
  'we walked home under a pale moon',
  'the baby laughed at every bubble',
  'please open the window a little',
  'five foxes vanished over the hill',
  'nobody knew where the music came from',
  'she whispered a poem to the plants',
  'our boat moved slowly past the bridge',
  'give me a moment to remember',
  'the old clock stopped at half past five',
  'you should visit my village in May',
  'a happy puppy jumped on the sofa',
  'most people prefer warm bread',
  'he poured the coffee and smiled',
  'tomorrow we will paint the big room blue',
  'maybe the map is upside down',
  'I found a button under the table',
  'the farmer sold four fat pumpkins',
  'what a marvellous way to begin',
  'snow fell softly on the quiet town',
  'her violin was louder than the thunder',
  'let us meet by the fountain at noon',
  'the soup needs more pepper',
  'a tiny boat floats on the pond',
  'we never found the missing shoe',
  'the moth flew over a bowl of plums',
  'you make it look so easy',
  'my father loves to fish in the morning',
  'both of them wore yellow boots',
  'the bus was full of noisy pupils',
  'open your mouth and say ah',
  'why would anyone leave this place',
  'the wolf waited behind a wall',
  'I believe you without any proof',
  'a purple balloon popped above us',
  'the movie was much too long',
  'somebody put salt in the sugar bowl',
  'the wind blew my paper away',
  'grandma bakes the best banana bread',
  'do not forget to feed the fish',
  'the piano has a broken foot',
  'I would rather walk than wait',
  'every evening the bats come out',
  'he built a palace of sand and foam',
  'move the lamp above the map',
  'the waiter brought us five forks',
  'all my apples rolled down the road',
  'that bear has a beautiful voice',
  'we could see for many miles',
  'please show me how it works',
  'the bakery opens at seven',
  'mother wove a warm woollen blanket',
  'my phone fell into the bath',
  'nothing beats a slow summer morning',
  'who ate the very last plum',
  'the puppet bowed and waved goodbye',
  'our team won by a single point',
  'I wonder how bees find their way',
  'a flame moved in the hallway',
  'the vase was made by my aunt',
  'he hums an old song about the sea',
  'four owls were awake all night',
  'put the blue book back on the shelf',
  'the parade passed below our balcony',
  'we hope the weather will improve',
  'she always remembers my birthday',
  'an enormous wave washed over the pier',
  'the boy hid his map in a shoe',
  'every path leads to the village',
  'I am fond of mushrooms and olives',
  'the motor makes a funny sound',
  'we both laughed about the mistake',
  'bring me a bowl of warm water',
  'the painter mixed blue with yellow',
  'how many plums fit in a pie',
  'the mayor opened the new museum',
  'this room smells of fresh paint',
  'they moved the wardrobe up the stairs',
  'a fine mist covered the valley',
  'you have my word of honour',
  'the robin built a home in my boot',
  'my uncle repairs broken umbrellas',
  'we paid far too much for the boat',
  'the poem ends with a small surprise',
  'I saw a whale from the ferry',
  'pumpkin soup is perfect in the fall',
  'our neighbour plays the tuba at night',
  'the big wheel turned above the fair',
  'have you ever ridden a camel',
  'the hamster ate my homework',
  'a pair of swans swam past us',
  'please be home before the storm',
  'the moon rose over a field of wheat',
  'he opened the box and found more boxes',
  'above all we must be patient',
  'no problem is too big for you',
  'the ship arrived without a crew',
  'my favourite month is November',
  'we wrapped the mirror in old paper',
  'the pilot waved from the window',
  'a good joke needs a short pause',
  'I follow the footprints to the barn',
  'two women sang beneath my balcony',
  'the oven is far too warm for meringue',
  'her map of the moon won a prize',
  'everybody was happy about the show',
  'the fever was gone by the morning',
  'you may borrow my umbrella',
  'behind the house there is a maple tree',
  'we fly to Rome on Monday',
  'the rubber boots were full of rain',
  'he almost believed his own story',
  'the beaver improved his wooden dam',
  'summer is over and the pool is empty',
  'a mouse moved into the piano',
  'show me the way to the harbour',
  'the wizard lost his voice again',
  'my boss prefers to work from home',
  'we saw five falling stars above the farm',
  'the opera began with a whisper',
)


def grid(rng: np.random.Generator) -> str:
  """A sentence of the GRID grammar."""
  words = (COMMANDS, COLOURS, PREPOSITIONS, LETTERS, DIGITS, ADVERBS)
  return ' '.join(choices[int(rng.integers(len(choices)))] for choices in words)


def spoken(sentence: str) -> str:
  """A sentence as spelt for the synthesiser: the single letter of a GRID sentence is spelt, not read as a word."""
  words = sentence.split()
  if len(words) == 6 and words[0] in COMMANDS and words[3] in LETTERS:
    words[3] = {'a': 'eigh'}.get(words[3], words[3].upper())
  return ' '.join(words)


def draw(rng: np.random.Generator, splits: dict[str, int], grid_share: float = 0.6) -> dict[str, list[str]]:
  """Draws sentences for each split (name -> number of clips); splits share no sentence, and GRID ones are unique.

  Validation and test first take their share of the free sentences, train the remaining ones, repeated if necessary.
  """
  free = [FREE[i] for i in rng.permutation(len(FREE))]
  used: set[str] = set()
  out = {}
  others = {name: round(count * (1 - grid_share)) for name, count in splits.items() if name != 'train'}
  assert sum(others.values()) <= len(FREE) // 2
  for name, count in sorted(splits.items(), key=lambda item: item[0] == 'train'):  # train last
    num_free = count - round(count * grid_share) if name == 'train' else others[name]
    pool = free if name == 'train' else [free.pop() for _ in range(num_free)]
    chosen = [pool[i % len(pool)] for i in range(num_free)]
    while len(chosen) < count:
      sentence = grid(rng)
      if sentence not in used:
        used.add(sentence)
        chosen.append(sentence)
    out[name] = [chosen[i] for i in rng.permutation(count)]
  return out
