// Made names of places. Each belongs to one split by a hash of its letters, so that no name of the held-out rows is ever trained on.
import type { Draw } from "./draw.ts";

export type Split = "base" | "train" | "test";

const words = (text: string): string[] => text.trim().split(/\s+/);

const ADJECTIVES = words(
  "Silver Golden Red Green Blue White Black Old Little Happy Quiet Merry Lucky Copper Crooked Flying Painted Sleepy Wandering Crimson Velvet Amber Ivory Royal Hidden Humble Jolly Laughing Rusty Singing Brave Curious Gentle Midnight Frosty Sunny Stormy Dancing Scarlet Emerald",
);
const NOUNS = words(
  "Oak Fox Swan Lantern Anchor Kettle Barrel Stag Heron Otter Badger Sparrow Raven Falcon Lion Bear Rose Lily Thistle Willow Maple Cedar Elm Orchard Garden Harbour Lighthouse Bridge Windmill Castle Tower Crown Bell Compass Feather Candle Spoon Teapot Copperpot Walnut Pear Plum Cherry Olive Pepper Saffron Ginger Basil Juniper Clover Meadow Pine Drum Fiddle Piper Sailor Shepherd Miller Baker Weaver Captain Duke Queen Dragon Unicorn Griffin Hare Hound Pony Robin Magpie Owl Trout Salmon Pearl Star Moon Comet Arrow Shield Saddle Wagon Wheel Mill Forge Lark",
);
const SURNAMES = words(
  "Harper Bennett Calloway Dawson Ellery Fletcher Gibson Hartley Ingram Jarvis Keller Lawson Mercer Norton Osborne Parker Quinn Ramsey Sutton Thornton Underhill Vaughan Whitaker Yates Abbott Barlow Carver Denholm Everett Foster Garrick Holloway Ivers Jennings Kendall Lambert Marlow Nash Oakley Preston Rowan Selby Tilden Upton Vickers Warwick Yardley Ashby Briggs Colby",
);
const PLACES = words(
  "House Kitchen Table Corner Lane Rooms Court Hall Arms Gate Square Yard Cellar Terrace Parlour Lodge Cottage Plaza Palace Gardens",
);
const SYLLABLES = [
  words("Bel Cor Dal Fen Gal Hel Jor Kal Lor Mar Nor Or Pel Quen Ros Sal Tor Ul Vel Wil Zan Al Bri Cas Del Est Fior Mon Per Tal"),
  words("a e i o ba da la ma na ra ta vi mi ni ri ti lo mo no ro"),
  words("ra na no zo ri lo ta ne va ssa tto lla mo nda rd nt ck ly ston wick den mere ford ham"),
];

const KINDS: ((draw: Draw) => string)[] = [
  (draw) => `The ${draw.pick(NOUNS)}`,
  (draw) => `The ${draw.pick(ADJECTIVES)} ${draw.pick(NOUNS)}`,
  (draw) => `The ${draw.pick(ADJECTIVES)} ${draw.pick(NOUNS)}`,
  (draw) => `The ${draw.pick(NOUNS)} and ${draw.pick(NOUNS)}`,
  (draw) => `${draw.pick(ADJECTIVES)} ${draw.pick(NOUNS)}`,
  (draw) => `${draw.pick(SURNAMES)} ${draw.pick(PLACES)}`,
  (draw) => `${draw.pick(NOUNS)} ${draw.pick(PLACES)}`,
  (draw) => `${draw.pick(SURNAMES)} and ${draw.pick(SURNAMES)}`,
  (draw) => draw.pick(SURNAMES),
];
/** Names of one made word; the base alone learns to copy them. */
const oneWord = (draw: Draw) => SYLLABLES.map((part) => draw.pick(part)).join("");
const LANDMARKS: ((draw: Draw) => string)[] = [
  (draw) => `Café ${draw.pick(NOUNS)}`,
  (draw) => `${draw.pick(SURNAMES)} Hotel`,
  (draw) => `${draw.pick(SURNAMES)} ${draw.pick(["Museum", "Library", "Theatre", "Station", "Market"])}`,
];

/** The split of a name: one in ten is for testing, three in ten for training the demo, the others for the base. */
function splitOf(name: string): Split {
  let hash = 0x811c9dc5;
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0)!, 0x01000193) >>> 0;
  const part = (hash >>> 8) % 10;
  return part === 0 ? "test" : part < 4 ? "train" : "base";
}

/** A name of `split`; `near` allows those of landmarks. */
export function makeName(draw: Draw, split: Split, near = false): string {
  for (;;) {
    const unusual = draw.next() < 0.25;
    const kind = near && draw.next() < 0.4 ? draw.pick(LANDMARKS) : split === "base" && unusual ? oneWord : draw.pick(KINDS);
    const name = kind(draw);
    if (splitOf(name) === split) return name;
  }
}
