// The E2E dataset's rows (Novikova et al. 2017) whose text says what their meaning representation says, no more and no less.
// The check is a table of phrases for each fact, in the manner of the cleaned E2E (Dušek et al. 2019); what it can't explain is dropped.
import { readRecords } from "../../src/data/readers.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";

/** What a text can say about a place; absent where it doesn't. */
export interface Facts {
  name: string;
  type?: string;
  food?: string;
  price?: string;
  rating?: string;
  area?: string;
  family?: string;
  near?: string;
}
export const FACTS = ["name", "type", "food", "price", "rating", "area", "family", "near"] as const;
export type Fact = (typeof FACTS)[number];
/** The facts that have few values: what is asked for in the second stage of the base's training, and in the demo. */
export const TAGS = ["type", "food", "price", "rating", "area", "family"] as const satisfies readonly Fact[];

/** A text with the marks NAME and NEAR in the places of the names, and the facts it states. */
export interface Row {
  text: string;
  facts: Facts;
}

export const NAME = "§";
export const NEAR = "¶";

/** Values that the dataset writes in several ways. */
const VALUES: Record<string, string> = {
  cheap: "low",
  "less than £20": "low",
  moderate: "medium",
  "£20-25": "medium",
  "more than £30": "high",
  "1 out of 5": "low",
  "3 out of 5": "medium",
  average: "medium",
  "5 out of 5": "high",
  "Fast food": "fast food",
};

const SLOTS: Record<string, Fact> = {
  name: "name",
  eatType: "type",
  food: "food",
  priceRange: "price",
  "customer rating": "rating",
  area: "area",
  familyFriendly: "family",
  near: "near",
};

const RATED = "(?:customer |customers? )?(?:ratings?|rated?|reviews?|scores?)";
const OF5 = String.raw`(?:out of|of|/)\s?(?:5|five)(?: stars?)?`;
const POUNDS = "(?:£|pounds? ?|gbp ?)?";
const PRICED = "(?:-| )?(?:in |on )?(?:prices?|priced|pricing|costs?)(?:-| )?(?:range|ranges|ranged)?";
const IS =
  "(?: range[sd]?| point)?(?: is| are| of| at| in| has| from| being|,|:)*(?: a| an| the| quite| very| rather| around| about| between)*";

/** The phrases that say each value. Prices and ratings are looked for in this order, so that "low" and "high" belong to what they stand by. */
const PHRASES: Partial<Record<Fact, Record<string, RegExp>>> = {
  type: {
    "coffee shop": /\bcoffee[- ]?(?:shops?|house|place)\b/gi,
    pub: /\bpubs?\b/gi,
    restaurant: /\brestaurants?\b/gi,
  },
  food: {
    Chinese: /\bchinese\b/gi,
    English: /\b(?:english|british)\b/gi,
    "fast food": /\bfast[- ]?food\b/gi,
    French: /\bfrench\b/gi,
    Italian: /\bitalian\b/gi,
    Japanese: /\bjapanese\b/gi,
    Indian: /\bindian\b/gi,
  },
  rating: {
    low: new RegExp(
      String.raw`\b(?:low|poor|bad)(?:ly|er)? ${RATED}\b|\b(?:low|poorly|badly)[- ]rated\b|\b${RATED}${IS} (?:1|one) ${OF5}|\b(?:1|one)(?:-| )?(?:star| ${OF5})s?(?: ${RATED})?|\b${RATED}${IS} (?:low|poor|poorly|bad)\b`,
      "gi",
    ),
    medium: new RegExp(
      String.raw`\baverage(?:ly)? ${RATED}\b|\baverage[- ]rated\b|\b${RATED}${IS} (?:3|three) ${OF5}|\b(?:3|three)(?:-| )?(?:star| ${OF5})s?(?: ${RATED})?|\b${RATED}${IS} (?:as )?average\b`,
      "gi",
    ),
    high: new RegExp(
      String.raw`\bhigh(?:ly|er)? ${RATED}\b|\bhigh(?:ly)?[- ]rated\b|\b${RATED}${IS} (?:5|five) ${OF5}|\b(?:5|five)(?:-| )?(?:star| ${OF5})s?(?: ${RATED})?|\b${RATED}${IS} high(?:ly)?\b`,
      "gi",
    ),
  },
  price: {
    low: new RegExp(
      String.raw`\b(?:cheap|inexpensive|low|reasonable|affordable)(?:ly|er)?${PRICED}\b|\b(?:prices?|priced|costs?)${IS} (?:low|cheap)\b|(?:${PRICED}${IS} )?\b(?:less than|under|below) ${POUNDS}20(?: pounds?| euros?)?(?:${PRICED})?|\b(?:cheap|inexpensive)(?:er|ly)?\b`,
      "gi",
    ),
    medium: new RegExp(
      String.raw`\b(?:moderate|mid|medium)(?:ly)?${PRICED}\b|\b(?:prices?|priced|costs?)${IS} moderate(?:ly)?\b|(?:${PRICED}${IS} )?${POUNDS}20 ?(?:-|–|to|and) ?${POUNDS}25(?: pounds?| euros?)?(?:${PRICED})?`,
      "gi",
    ),
    high: new RegExp(
      String.raw`\bhigh(?:ly|er)?${PRICED}\b|\bexpensive(?:ly)?(?:${PRICED})?\b|\b(?:prices?|priced|costs?)${IS} high\b|(?:${PRICED}${IS} )?\b(?:more than|over|above) ${POUNDS}30(?: pounds?| euros?)?(?:${PRICED})?`,
      "gi",
    ),
  },
  area: {
    "city centre": /\b(?:(?:city|town) ?cent(?:er|re)|cent(?:er|re) of (?:the )?(?:city|town))\b/gi,
    riverside: /\b(?:riverside|river side|river)\b/gi,
  },
  family: {
    no: /\b(?:not|isn't|doesn't|aren't|non|no|don't|nor|unsuitable|never)[- ](?:\w+[- ]){0,4}?(?:famil(?:y|ies)|kids?|child(?:ren)?)(?:'s)?(?:(?:-| )?(?:friendly|orient(?:at)?ed|welcoming))?\b|\badults?[- ]only\b|\bonly (?:for )?adults?\b/gi,
    yes: /\b(?:famil(?:y|ies)|kids?|child(?:ren)?)(?:'s)?(?:(?:-| )?(?:friendly|orient(?:at)?ed|welcoming))?\b/gi,
  },
};

/** What is left of a clean text holds none of these: a degree that no phrase explains, another type, a fact in other words. */
const UNEXPLAINED =
  /\b(?:high|low|average|moderate|poor|bad|good|great|excellent|decent|cheap|affordable|expensive|pric\w*|cost\w*|rat(?:e|ed|es|ing|ings)|review\w*|scor\w*|stars?|five|adults?|friendly|bars?|diner|bistro|eatery|inn|hotel|sushi|pasta|pizza|curry|burgers?|fries|cuisine \w+ cuisine|wine|cent(?:er|re)|downtown|north|south|east|west|not|no|isn't|doesn't)\b|[£$€\d]|\bcaf[eé]|\byoung/i;

/** Rows of the CSV files `mr,ref` in which each fact of the representation is said once or more and no other is. */
export async function cleanRows(paths: readonly string[]): Promise<{ rows: Row[]; read: number }> {
  const rows: Row[] = [];
  let read = 0;
  for (const path of paths) {
    for await (const { record } of readRecords(nodeFiles, path, { promptColumn: "mr", completionColumn: "ref" })) {
      if (!("prompt" in record)) throw new Error(`${path} has other columns than mr and ref`);
      read++;
      const row = cleanRow(record.prompt, record.completion);
      if (row) rows.push(row);
    }
  }
  return { rows, read };
}

function cleanRow(mr: string, ref: string): Row | undefined {
  const facts: Partial<Facts> = {};
  for (const [, slot, value] of mr.matchAll(/([\w ]+)\[([^\]]*)\]/g)) facts[SLOTS[slot!.trim()]!] = VALUES[value!] ?? value!;
  const { name, near } = facts;
  if (name === undefined) return undefined;
  const text = put(put(ref.replace(/\s+/g, " ").trim(), near, NEAR), name, NAME);
  if (!text.includes(NAME) || text.includes(NEAR) !== (near !== undefined) || text.includes(`${NAME}'`)) return undefined;
  if (/[§¶] [§¶]/.test(text)) return undefined;
  const said = factsSaid(text);
  return said && TAGS.every((fact) => said[fact] === facts[fact]) ? { text, facts: facts as Facts } : undefined;
}

/** The facts that a text states; undefined where it states two values of one, or something that no phrase explains. */
function factsSaid(text: string): Pick<Partial<Facts>, (typeof TAGS)[number]> | undefined {
  const facts: Partial<Facts> = {};
  let rest = text;
  for (const [fact, values] of Object.entries(PHRASES)) {
    for (const [value, phrases] of Object.entries(values)) {
      const without = rest.replace(phrases, " ");
      if (without !== rest && facts[fact as Fact] !== undefined) return undefined;
      if (without !== rest) facts[fact as Fact] = value;
      rest = without;
    }
  }
  // Words with capitals inside a sentence are what is left of other names.
  const strange = UNEXPLAINED.test(rest) || /[a-z,] [A-Z](?!t )/.test(rest) || /[^\x20-\x7e§¶é]/.test(rest);
  return strange ? undefined : facts;
}

/** The row without one of its sentences, for each sentence that names no place: fewer facts, in words as people write them. */
export function shortened({ text, facts: { name, near } }: Row): Row[] {
  const sentences = text.split(/(?<=[.!?]) (?=[A-Z§¶])/);
  return sentences.flatMap((sentence, i) => {
    if (/[§¶]/.test(sentence)) return [];
    const rest = sentences.filter((_, other) => other !== i).join(" ");
    const facts = factsSaid(rest);
    return facts ? [{ text: rest, facts: { name, ...facts, ...(near && { near }) } }] : [];
  });
}

/** `text` with `mark` for each mention of `name`, its accents or not. */
function put(text: string, name: string | undefined, mark: string): string {
  if (name === undefined) return text;
  const plain = name.replaceAll("é", "e");
  return text.replaceAll(name, mark).replaceAll(plain, mark);
}
