// Graphs that take adapters as inputs, and the sessions that run them: changing adapters opens nothing again, unless the first one of
// another method than LoRA comes, the first one on what is no linear layer, or one that trains something else beside its factors.

import { fuseAdditions } from "../graph/fuse.ts";
import { type Graph, nodesOf, type Value } from "../graph/graph.ts";
import { input } from "../graph/ops/leaves.ts";
import { transpose } from "../graph/ops/shape.ts";
import { modulesOf } from "../models/registry.ts";
import { type Engine, openGraph } from "../runtime/open-graph.ts";
import type { Session, WeightSource } from "../runtime/session.ts";
import { float32, sizeOf, type Tensor } from "../tensor.ts";
import { savedInput, savedReadBy, withSaved } from "./beside.ts";
import { adapt, gatedLayers, type LayerTensors } from "./inject.ts";
import { trainedBy } from "./layout.ts";
import { chunksOf } from "./merge.ts";
import type { Method, MethodTensor, ModuleShape, ModuleTensors } from "./method.ts";
import { methodOf, plainMethod, readTensors } from "./method-table.ts";
import { checkMixable, type Mixture, mixableLayers, mixing, ownersFeed } from "./mixture.ts";
import type { Adapter } from "./peft-files.ts";
import { type ModulePlace, placeOf, storedShape } from "./places.ts";
import type { SavedWeight } from "./saved.ts";

/** A layer that takes an adapter. */
type Slot = ModuleShape & { path: string };

/** Inputs of the same name differ by the place of their method among those of the graph. */
const nameOf = (tensor: string, index: number, path: string) => `${tensor}${index === 0 ? "" : index}.${path}`;

/**
 * `graph` with inputs beside the layers in `slots`, for each of `methods`. Factors are fed with the scale in them. Those of plain LoRA
 * can be several adapters' on the layers in `mixable` (mixture.ts).
 */
export function withSlots(
  graph: Graph,
  methods: readonly Method[],
  slots: readonly Slot[],
  rankOf: (slot: Slot, index: number) => number | string,
  mixable: ReadonlySet<string> = new Set(),
): Graph {
  const mixOf = mixing();
  const adapted = methods.reduce((before, method, index) => {
    const beside = slotsOf(method, slots, graph).map((slot): [string, LayerTensors] => {
      const tensors: Record<string, Value> = {};
      for (const tensor of readTensors(method, slot, rankOf(slot, index)))
        tensors[tensor.name] = input(nameOf(tensor.name, index, slot.path), "float32", storedShape(tensor, slot));
      const mix = mixable.has(slot.path) && method === plainMethod && { mix: mixOf(slot.path, rankOf(slot, index)) };
      return [slot.path, { tensors: tensors as ModuleTensors<Value>, scale: 1, ...mix }];
    });
    return adapt(before, { ...method, derived: undefined }, new Map(beside));
  }, graph);
  return fuseAdditions(adapted);
}

/** The slots that a method has in a graph. */
function slotsOf({ gate }: Method, slots: readonly Slot[], graph: Graph): readonly Slot[] {
  if (!gate) return slots;
  const gated = gatedLayers(graph);
  return slots.filter(({ path }) => gated.has(path));
}

/** What the slot of a method is fed: an adapter's tensors, or at any rank what changes nothing. */
export function slotFeeds(
  method: Method,
  index: number,
  slot: Slot,
  own: { rank: number; scale: number; tensors: ModuleTensors } | { rank: number },
): [string, Tensor][] {
  const valuesOf = ({ name, scaled, off = 0 }: MethodTensor, shape: number[]): Float32Array => {
    if (!("tensors" in own)) return new Float32Array(sizeOf(shape)).fill(off);
    const values = own.tensors[name]!;
    return scaled && own.scale !== 1 ? values.map((value) => value * own.scale) : values;
  };
  return readTensors(method, slot, own.rank).map((tensor) => {
    const shape = storedShape(tensor, slot) as number[];
    return [nameOf(tensor.name, index, slot.path), float32(shape, valuesOf(tensor, shape))];
  });
}

/** Elements of weights that are read for derived tensors at once, about: 256 MB. */
const CHUNK_ELEMENTS = 2 ** 26;

/** By module path, the tensors of `adapter` that `update` reads beside the layers of `graph`: derived ones the engine computes. */
export async function appliedTensors(graph: Graph, adapter: Adapter, weights: WeightSource, engine: Engine) {
  const method = methodOf(adapter.config);
  if (!method.derived) return adapter.tensors;
  const applied = new Map<string, ModuleTensors>();
  for (const chunk of chunksOf(adaptedWeights(graph, adapter), CHUNK_ELEMENTS)) {
    const outputs: Record<string, Value> = {};
    const feeds: Record<string, Tensor> = {};
    for (const { module, weight } of chunk) {
      const inputs: Record<string, Value> = {};
      for (const { name, shape } of method.tensors(module, module.rank)) {
        inputs[name] = input(nameOf(name, 0, module.path), "float32", shape);
        feeds[nameOf(name, 0, module.path)] = float32(shape as number[], adapter.tensors.get(module.path)![name]!);
      }
      const derived = method.derived.compute({ weight, scale: module.scale }, inputs as ModuleTensors<Value>);
      for (const [name, value] of Object.entries(derived)) outputs[nameOf(name, 0, module.path)] = value;
    }
    const session = await openGraph({ outputs }, weights, engine);
    try {
      const results = await session.run(feeds);
      for (const { module } of chunk) {
        const { path } = module;
        const derived = method.derived.tensors(module).map(({ name }) => [name, results[nameOf(name, 0, path)]!.data]);
        applied.set(path, { ...adapter.tensors.get(path)!, ...Object.fromEntries(derived) });
      }
    } finally {
      await session.close();
    }
  }
  return applied;
}

/** The frozen weights [out, in] that `adapter` is beside in `graph`. */
function adaptedWeights(graph: Graph, { modules }: Adapter) {
  const weights = new Map<string, Value>();
  for (const { op, inputs, attributes } of nodesOf(graph)) {
    const weight = op === "embedding" ? transpose(inputs[1]!, [1, 0]) : inputs[1]!;
    if (op === "linear" || op === "embedding" || op === "linearCrossEntropy") weights.set(String(attributes["path"]), weight);
  }
  return modules.flatMap((module) => {
    const weight = weights.get(module.path);
    return weight ? [{ module, weight, size: module.inFeatures * module.outFeatures }] : [];
  });
}

/** A session of a graph that takes adapters. */
export interface AdaptableSession {
  /** Opens it at the first call, and at the first one after it was closed. */
  session(): Promise<Session>;
  /**
   * Attaches another adapter that fits, or none, and binds the inputs `beside`. What the session carries from run to run is lost if it
   * has no room for the adapter and is opened anew. If this fails, the adapter before stays.
   */
  useAdapter(adapter: Adapter | null, beside?: Record<string, Tensor>): Promise<void>;
  /** Attaches several at once; from then on each run is fed the weights of its rows. Throws `adapter/not-mixable` (mixture.ts). */
  useMixture(mixture: Mixture): Promise<void>;
  /** Which tokens of a batch the adapter acts on (`gateFeed`); null where the session is not fed that. */
  gateOf(batch: Record<string, Tensor>): Int32Array | null;
  /** How many weights each row is fed; null where none are. */
  readonly mixed: number | null;
  close(): Promise<void>;
}

/** What is bound, or will be when the session opens. */
interface Attached {
  room: Room;
  adapter: Adapter | null;
  mixture: Mixture | null;
  beside: Record<string, Tensor>;
}

/** What an open graph has slots for. */
interface Room {
  methods: readonly Method[];
  /** Whether it has them for other layers than linear ones: embeddings, convolutions, experts. */
  others: ReadonlySet<string>;
  /** For several adapters at once. */
  mixed: boolean;
  /** What is fed beside factors. */
  saved: readonly SavedWeight[];
}

/** `graph` in a session that takes adapters on all of its layers. Nothing is opened yet. */
export function adaptableSession(graph: Graph, weights: WeightSource, engine: Engine): AdaptableSession {
  const slots = modulesOf(graph).map((module): Slot => {
    const { path, inFeatures, outFeatures } = module;
    return { path, inFeatures, outFeatures, ...placeOf(module) };
  });
  const mixable = mixableLayers(graph);
  const slotsIn = (room: Room) => slots.filter((slot) => isLinear(slot) || room.others.has(kindOf(slot)));
  const none = { adapter: null, mixture: null, beside: {} };
  let attached: Attached = { room: { ...noRoom, ...roomFor(none, noRoom) }, ...none };
  let opened: Promise<Session> | undefined;

  const feedsOf = async ({ room, adapter, mixture, beside }: Attached): Promise<Record<string, Tensor>> => {
    const applied = adapter && (await appliedTensors(graph, adapter, weights, engine));
    const adapted = new Map(adapter?.modules.map((module) => [module.path, module]));
    const own = adapter && methodOf(adapter.config);
    const feeds = Object.fromEntries(
      room.methods.flatMap((method, index) =>
        slotsOf(method, slotsIn(room), graph).flatMap((slot) => {
          const module = method === own ? adapted.get(slot.path) : undefined;
          return slotFeeds(method, index, slot, module ? { ...module, tensors: applied!.get(slot.path)! } : { rank: 0 });
        }),
      ),
    );
    const saved = room.saved.map(({ name, shape }) => [savedInput(name), float32(shape, adapter!.saved!.get(name)!.data)]);
    const mixed = room.mixed ? slotsIn(room).filter(({ path }) => mixable.has(path)) : [];
    const rankOf = (path: string) => (own === plainMethod ? (adapted.get(path)?.rank ?? 0) : 0);
    const owners = mixed.map(({ path }) => ownersFeed(path, rankOf(path), mixture));
    return { ...feeds, ...Object.fromEntries([...owners, ...saved]), ...beside };
  };
  const open = async (): Promise<Session> => {
    const rank = (slot: Slot, index: number) => nameOf("rank", index, slot.path);
    const { room } = attached;
    const session = await openGraph(
      withSlots(withSaved(graph, room.saved), room.methods, slotsIn(room), rank, room.mixed ? mixable : undefined),
      weights,
      engine,
    );
    try {
      await session.bind(await feedsOf(attached));
    } catch (error) {
      await session.close();
      throw error;
    }
    return session;
  };
  const session = (): Promise<Session> => {
    opened ??= open().catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    return opened;
  };
  const close = async (): Promise<void> => {
    const before = opened;
    opened = undefined;
    await (await before)?.close();
  };
  const attach = async (given: Omit<Attached, "room">): Promise<void> => {
    const before = attached;
    const saved = given.adapter ? savedReadBy(graph, trainedBy(given.adapter).saved) : [];
    const room = { ...roomFor(given, opened ? before.room : noRoom), saved };
    const next = { room, ...given };
    const fits = room.methods.length === before.room.methods.length && sameFlags(room, before.room);
    if (opened && fits) {
      await (await opened).bind(await feedsOf(next));
      attached = next;
      return;
    }
    const wasOpen = opened !== undefined;
    await close(); // before the other one opens: there is one copy of the weights
    attached = next;
    try {
      if (wasOpen) await session();
    } catch (error) {
      attached = before;
      throw error;
    }
  };
  return {
    session,
    close,
    useAdapter: (adapter, beside = {}) => attach({ adapter, mixture: null, beside }),
    async useMixture(mixture) {
      checkMixable(mixture, mixable);
      await attach({ adapter: mixture.adapter, mixture, beside: {} });
    },
    gateOf(batch) {
      const { room, adapter } = attached;
      if (!room.methods.some(({ gate }) => gate)) return null;
      const own = adapter && methodOf(adapter.config).gate?.(adapter.config, batch);
      return own || new Int32Array(sizeOf(batch["inputIds"]!.shape));
    },
    get mixed() {
      return attached.room.mixed ? (attached.mixture?.count ?? 1) : null;
    },
  };
}

const sameFlags = (a: Room, b: Room): boolean =>
  a.others.size === b.others.size && a.mixed === b.mixed && JSON.stringify(a.saved) === JSON.stringify(b.saved);

/** What a module is, if no linear layer: the field that says so. */
const kindOf = ({ isEmbedding, kernel, experts }: ModulePlace): string =>
  isEmbedding ? "embedding" : kernel ? "convolution" : experts === undefined ? "" : "experts";
const isLinear = (place: ModulePlace): boolean => kindOf(place) === "";

const noRoom: Room = { methods: [], others: new Set(), mixed: false, saved: [] };

/** The room for an adapter and for those that there is room for already; for none that of LoRA, which the first one mostly is. */
function roomFor({ adapter, mixture }: Pick<Attached, "adapter" | "mixture">, before: Room): Omit<Room, "saved"> {
  const own = adapter ? [methodOf(adapter.config)] : before.methods.length === 0 ? [plainMethod] : [];
  const others = adapter?.modules.filter((module) => !isLinear(module)).map(kindOf) ?? [];
  const mixed = before.mixed || mixture !== null;
  return { methods: [...new Set([...before.methods, ...own])], others: new Set([...before.others, ...others]), mixed };
}
