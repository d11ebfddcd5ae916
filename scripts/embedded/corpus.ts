// The texts that the embedded base is trained on: conversations about places, their descriptions, word problems, and records of other things.
// What the demo asks for (the facts of a place as JSON) is in none of them.
import type { Draw } from "./draw.ts";
import { makeName, type Split } from "./names.ts";
import { FACTS, type Fact, NAME, NEAR, type Row, TAGS } from "./rows.ts";

interface Turn {
  role: "user" | "assistant";
  content: string;
}

/** The conversation as the chat template writes it. */
const chat = (turns: readonly Turn[]): string =>
  turns.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join("");
const ask = (question: string, answer: string): Turn[] => [
  { role: "user", content: question },
  { role: "assistant", content: answer },
];

/** The row with made names in its text and facts. */
export function named(row: Row, draw: Draw, split: Split): Row {
  const name = makeName(draw, split);
  let near = makeName(draw, split, true);
  while (near.includes(name) || name.includes(near)) near = makeName(draw, split, true);
  const text = put(put(row.text, NAME, name), NEAR, near);
  return { text: text[0]!.toUpperCase() + text.slice(1), facts: { ...row.facts, name, ...(row.facts.near && { near }) } };
}

/** `text` with `name` for `mark` and an article before it, which would leave open whether it belongs to the name. */
const put = (text: string, mark: string, name: string): string =>
  text.replace(new RegExp(`(?:\\b[Tt]he )?${mark}`, "g"), name).replace(/ (?=[.,])/g, "");

const QUESTIONS: Record<Fact, string[]> = {
  name: ["What is it called?", "What is the name of the place?", "Which place is this about?"],
  type: ["What kind of place is it?", "Is it a pub, a restaurant or a coffee shop?", "What type of place is this?"],
  food: ["What food does it serve?", "What kind of food is there?", "Which food can I eat there?"],
  price: ["What are the prices like?", "How expensive is it?", "Are the prices low, medium or high?"],
  rating: ["How is it rated?", "What do customers think of it?", "Is the rating low, medium or high?"],
  area: ["Where is it?", "Which area is it in?", "What part of the city is it in?"],
  family: ["Is it good for families?", "Can I take children there?", "Is it family friendly?"],
  near: ["What is it near?", "What place is close to it?", "What is next to it?"],
};
const UNKNOWN = "It does not say.";
const LABELS: Record<Fact, string> = {
  name: "name",
  type: "type",
  food: "food",
  price: "price",
  rating: "rating",
  area: "area",
  family: "family friendly",
  near: "near",
};

/** Three to six questions about one text, each on one of `facts`. */
function questions({ text, facts }: Row, draw: Draw, from: readonly Fact[] = FACTS): Turn[] {
  const asked = draw.shuffled(from).slice(0, 3 + draw.below(4));
  return asked.flatMap((fact, i) => {
    const question = draw.pick(QUESTIONS[fact]);
    return ask(i > 0 ? question : draw.next() < 0.5 ? `${text}\n${question}` : `${question}\n${text}`, facts[fact] ?? UNKNOWN);
  });
}

/** Some of `from` asked for by name, in any order, or all of them; those that the text lacks are passed over. */
function notes({ text, facts }: Row, draw: Draw, from: readonly Fact[] = FACTS): Turn[] {
  const asked = draw.next() < 0.5 ? from : draw.shuffled(from).slice(0, 2 + draw.below(from.length - 1));
  const wanted = asked === from ? "what you learn" : `the ${asked.map((fact) => LABELS[fact]).join(", ")}`;
  const found = asked.filter((fact) => facts[fact] !== undefined);
  return ask(`Note ${wanted}:\n${text}`, found.map((fact) => `${LABELS[fact]}: ${facts[fact]}`).join("\n") || UNKNOWN);
}

function description({ text, facts }: Row, draw: Draw): Turn[] {
  const given = draw.shuffled(FACTS.filter((fact) => facts[fact] !== undefined));
  return ask(`Describe a place: ${given.map((fact) => `${LABELS[fact]} ${facts[fact]}`).join(", ")}.`, text);
}

function summary({ text, facts: { name, type = "place", food, area } }: Row, draw: Draw): Turn[] {
  const what = `${name} is ${/^[aeiou]/.test(type) ? "an" : "a"} ${type}`;
  const answer = `${what}${food ? ` with ${food} food` : ""}${area ? (area === "riverside" ? " by the river" : " in the city centre") : ""}.`;
  return ask(`${draw.pick(["Summarise", "In one sentence", "Make this shorter"])}: ${text}`, answer);
}

function advice({ text, facts }: Row, draw: Draw): Turn[] {
  const wishes: [boolean | undefined, string, string, string][] = [
    [known(facts.family, "yes"), "I have two children.", "Yes, it is family friendly.", "No, it is not family friendly."],
    [known(facts.price, "low"), "I have little money.", "Yes, the prices are low.", `No, the prices are ${facts.price}.`],
    [known(facts.rating, "high"), "I want the best.", "Yes, it has a high rating.", `No, its rating is ${facts.rating}.`],
    [
      known(facts.area, "riverside"),
      "I want to sit by the river.",
      "Yes, it is in the riverside area.",
      "No, it is in the city centre.",
    ],
  ];
  const [fits, wish, yes, no] = draw.pick(wishes);
  const question = `${text}\n${wish} ${draw.pick(["Should I go there?", "Is it for me?"])}`;
  return ask(question, fits === undefined ? UNKNOWN : fits ? yes : no);
}
const known = (value: string | undefined, wanted: string) => (value === undefined ? undefined : value === wanted);

const SMALL_TALK: [string, string][] = [
  ["Hello!", "Hello! How can I help you?"],
  ["Hi", "Hello! How can I help you?"],
  ["Who are you?", "I am a small language model that knows about places to eat."],
  ["What can you do?", "I can answer questions about places to eat, describe them, and make a text shorter."],
  ["Thank you!", "You are welcome."],
  ["Goodbye", "Goodbye!"],
];

/** JSON of things that are no places to eat. */
function record(draw: Draw): string {
  const some = () => makeName(draw, "base");
  const shapes: (() => object)[] = [
    () => ({ title: some(), author: some(), pages: draw.below(900) }),
    () => ({ ship: some(), captain: some(), port: some() }),
    () => ({ song: some(), singer: some(), minutes: 1 + draw.below(9), live: draw.pick(["yes", "no"]) }),
    () => ({ street: some(), houses: draw.below(200), next: some(), parking: draw.pick(["yes", "no"]) }),
  ];
  const made = draw.pick(shapes)();
  return JSON.stringify(Object.fromEntries(draw.shuffled(Object.entries(made)).slice(0, 2 + draw.below(3))));
}

type Make<T> = (row: Row, draw: Draw, problems: readonly string[]) => T;

/** A hundred makers: of each as many as `counts` say. */
const hundred = <T>(counts: readonly [count: number, make: Make<T>][]): Make<T>[] =>
  counts.flatMap(([count, make]) => Array<Make<T>>(count).fill(make));

const TEXTS = hundred<string>([
  [34, (row, draw) => chat(questions(row, draw))],
  [24, (row, draw) => chat(notes(row, draw))],
  [10, (row, draw) => chat(description(row, draw))],
  [8, (row, draw) => chat(summary(row, draw))],
  [6, (row, draw) => chat(advice(row, draw))],
  [4, ({ text }) => text],
  [8, (_, draw) => Array.from({ length: 2 + draw.below(3) }, () => record(draw)).join("\n")],
  [5, (_, draw, problems) => draw.pick(problems)],
  [1, (_, draw) => chat(ask(...draw.pick(SMALL_TALK)))],
]);

const CONVERSATIONS = hundred<Turn[]>([
  [48, (row, draw) => questions(row, draw, TAGS)],
  [43, (row, draw) => notes(row, draw, TAGS)],
  [8, advice],
  [1, (_, draw) => ask(...draw.pick(SMALL_TALK))],
]);

const made = <T>(makers: readonly Make<T>[], rows: readonly Row[], problems: readonly string[], count: number, draw: Draw): T[] =>
  Array.from({ length: count }, () => {
    const make = draw.pick(makers);
    return make(named(draw.pick(rows), draw, "base"), draw, problems);
  });

/** The texts of the first stage, in which every token is learned. */
export const corpus = (rows: readonly Row[], problems: readonly string[], count: number, draw: Draw): string[] =>
  made(TEXTS, rows, problems, count, draw);

/** The conversations of the second stage, in which the answers alone are learned. Names are not asked for: a model this small does not copy them. */
export const conversations = (rows: readonly Row[], count: number, draw: Draw) =>
  made(CONVERSATIONS, rows, [], count, draw).map((messages) => ({ messages }));

/** What the demo asks for: the facts as JSON, in a fixed order, those that the text lacks left out. */
export function demoRecord({ text, facts }: Row) {
  const found = TAGS.filter((fact) => facts[fact] !== undefined);
  const answer = JSON.stringify(Object.fromEntries(found.map((fact) => [fact, facts[fact]])));
  return { messages: ask(`Extract the facts as JSON: ${text}`, answer) };
}
