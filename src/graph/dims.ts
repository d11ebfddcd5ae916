// Dimensions of a shape: numbers, symbols, and sums of products of them in one canonical spelling ("batch*seq", "past+seq").

/** A number, or a polynomial over symbols in canonical spelling: two dims are equal exactly when they are `===`. */
export type Dim = number | string;
export type Shape = readonly Dim[];

/** A polynomial as monomial → coefficient; a monomial is its symbols sorted and joined by "*", "" for the constant term. */
export type Polynomial = ReadonlyMap<string, number>;

const known = new Map<Dim, Polynomial>();

/** The polynomial that a dim spells: the same one each time, as graphs ask for few dims again and again. */
export function polynomial(dim: Dim): Polynomial {
  const before = known.get(dim);
  if (before) return before;
  const terms = parsed(dim);
  known.set(dim, terms);
  return terms;
}

function parsed(dim: Dim): Polynomial {
  const terms = new Map<string, number>();
  for (const term of String(dim).split("+")) {
    let coefficient = 1;
    const symbols: string[] = [];
    for (const factor of term.split("*")) {
      if (/^\d+$/.test(factor)) coefficient *= Number(factor);
      else symbols.push(factor);
    }
    const key = symbols.sort().join("*");
    terms.set(key, (terms.get(key) ?? 0) + coefficient);
  }
  return terms;
}

function spell(terms: Polynomial): Dim {
  const nonZero = [...terms].filter(([, coefficient]) => coefficient !== 0).sort(([a], [b]) => (a < b ? -1 : 1));
  if (nonZero.every(([key]) => key === "")) return nonZero[0]?.[1] ?? 0;
  const spellTerm = ([key, n]: [string, number]) => (key === "" ? String(n) : n === 1 ? key : `${n}*${key}`);
  // The constant term sorts first; it reads better last.
  return [...nonZero.filter(([key]) => key !== ""), ...nonZero.filter(([key]) => key === "")].map(spellTerm).join("+");
}

const isNumber = (dim: Dim): dim is number => typeof dim === "number";

export function addDims(...dims: Dim[]): Dim {
  if (dims.every(isNumber)) return dims.reduce((sum, dim) => sum + dim, 0);
  const sum = new Map<string, number>();
  for (const dim of dims) for (const [key, n] of polynomial(dim)) sum.set(key, (sum.get(key) ?? 0) + n);
  return spell(sum);
}

const products = new Map<string, Dim>();

export function mulDims(...dims: Dim[]): Dim {
  if (dims.every(isNumber)) return dims.reduce((product, dim) => product * dim, 1);
  const spelled = dims.join(" ");
  const before = products.get(spelled);
  if (before !== undefined) return before;
  const product = multiplied(dims);
  products.set(spelled, product);
  return product;
}

function multiplied(dims: readonly Dim[]): Dim {
  let product: Polynomial = new Map([["", 1]]);
  for (const dim of dims) {
    const next = new Map<string, number>();
    for (const [a, n] of product) {
      for (const [b, m] of polynomial(dim)) {
        const key = [...a.split("*"), ...b.split("*")].filter(Boolean).sort().join("*");
        next.set(key, (next.get(key) ?? 0) + n * m);
      }
    }
    product = next;
  }
  return spell(product);
}

/** dim / divisor, where every coefficient is divisible. */
export function divideDim(dim: Dim, divisor: number): Dim {
  const terms = [...polynomial(dim)].map(([key, n]): [string, number] => [key, n / divisor]);
  if (!terms.every(([, n]) => Number.isInteger(n))) throw new RangeError(`${dim} is not divisible by ${divisor}`);
  return spell(new Map(terms));
}

/** Number of elements, as a dim. */
export const elements = (shape: Shape): Dim => mulDims(...shape);

export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((dim, i) => dim === b[i]);

export const showShape = (shape: Shape): string => `[${shape.join(", ")}]`;
