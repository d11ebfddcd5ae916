// How requests reach the hub: Node's http and https, with a check of the address that is connected to, after names are resolved.
// The networks are those of IANA's registries of special-purpose addresses (RFC 6890).
import { type LookupAddress, lookup } from "node:dns";
import http from "node:http";
import https from "node:https";
import { BlockList, isIP, type LookupFunction } from "node:net";
import { pipeline } from "node:stream";
import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib";
import type { Environment } from "./cache.ts";

/** Networks that are no part of the internet, by what they are called in errors. */
const NETWORKS = {
  loopback: ["127.0.0.0/8", "::1/128"],
  private: ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"],
  "carrier-grade NAT": ["100.64.0.0/10"],
  /** Some proxies give names such addresses, all of them. */
  benchmarking: ["198.18.0.0/15"],
  /** Clouds serve a machine's secrets here. */
  "link-local": ["169.254.0.0/16", "fe80::/10"],
  multicast: ["224.0.0.0/4", "ff00::/8"],
  reserved: ["0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"],
  "reserved (IPv6)": ["::/128", "100::/64", "2001:db8::/32", "64:ff9b:1::/48"],
} as const;
type Network = keyof typeof NETWORKS;

/** Networks that a hub may be in and lead to other machines of. In the others, a hub leads to its own host alone. */
const HOMES: readonly (Network | null)[] = ["loopback", "private", "carrier-grade NAT", "benchmarking"];

const lists = Object.entries(NETWORKS).map(([network, subnets]) => {
  const list = new BlockList();
  for (const subnet of subnets) {
    const [address = "", bits] = subnet.split("/");
    list.addSubnet(address, Number(bits), address.includes(":") ? "ipv6" : "ipv4");
  }
  return [network as Network, list] as const;
});

/** The network of an IP address; null for the internet's. An IPv4 address inside an IPv6 one counts as what it leads to. */
export function networkOf(address: string): Network | null {
  const bare = address.replace(/%.*$/, "");
  const family = isIP(bare) === 6 ? "ipv6" : "ipv4";
  const found = lists.find(([, list]) => list.check(bare, family))?.[0] ?? null;
  const inner = found === null && family === "ipv6" ? innerAddress(bare) : null;
  return inner === null ? found : networkOf(inner);
}

/** The IPv4 address in an IPv6 one: mapped (RFC 4291), compatible, of NAT64 (RFC 6052) or of 6to4 (RFC 3056). */
function innerAddress(address: string): string | null {
  const [head = "", tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split("::");
  const [before, after] = [head, tail ?? ""].map((text) => text.split(":").filter(Boolean));
  const zeros = Array(8 - before!.length - after!.length).fill("0");
  const groups = [...before!, ...zeros, ...after!].map((group) => Number.parseInt(group, 16));
  const prefix = groups
    .slice(0, 6)
    .map((group) => group.toString(16))
    .join(":");
  const isInside = /^(0:0:0:0:0:(0|ffff)|64:ff9b:0:0:0:0)$/.test(prefix);
  const pair = isInside ? groups.slice(6) : groups[0] === 0x2002 ? groups.slice(1, 3) : null;
  return pair?.flatMap((group) => [group >> 8, group & 255]).join(".") ?? null;
}

/** The host of an address, without the brackets of IPv6. URL has brought other spellings of IPv4 (octal, hexadecimal) to dots. */
const hostOf = ({ hostname }: URL): string => hostname.replace(/^\[(.*)\]$/, "$1");

/** Whether an address leads to this machine, by its name. */
export function isLoopback(url: URL): boolean {
  const host = hostOf(url);
  return isIP(host) > 0 ? networkOf(host) === "loopback" : /(^|\.)localhost\.?$/.test(host);
}

export interface HubResponse {
  status: number;
  headers: Headers;
  /** Decoded, though no encoding is asked for. */
  body: AsyncIterable<Uint8Array>;
}

export type Send = (url: URL, headers: Record<string, string>, signal: AbortSignal) => Promise<HubResponse>;

const DECODERS: Record<string, (() => ReturnType<typeof createGunzip>) | undefined> = {
  gzip: createGunzip,
  br: createBrotliDecompress,
  deflate: createInflate,
};

/**
 * Requests to one hub. Its own host may have any address; every other host has one on the internet, or in the hub's own network
 * where that is one of `HOMES`, else the request fails with what `refuse` makes.
 */
export function sender(endpoint: URL, environment: Environment, refuse: (url: URL, got: string) => Error): Send {
  // Node 24 and later can use the proxies that the environment names; the proxy then resolves names.
  const proxy = environment["NODE_USE_ENV_PROXY"] === "1" ? { proxyEnv: environment } : {};
  const options = { keepAlive: true, ...proxy };
  const agents = { "http:": new http.Agent(options), "https:": new https.Agent(options) };
  let home: Network | null = null;
  const refusal = (url: URL, address: string): Error | null => {
    const network = networkOf(address);
    if (network === null || (network === home && HOMES.includes(home))) return null;
    return refuse(url, `${address} (${network})`);
  };
  return (url, headers, signal) =>
    new Promise((resolve, reject) => {
      const host = hostOf(url);
      const isOwn = host === hostOf(endpoint);
      const refused = !isOwn && isIP(host) > 0 && refusal(url, host);
      if (refused) return reject(refused);
      const checked: LookupFunction = (name, asked, callback) =>
        lookup(name, { ...asked, all: true }, (error, found: LookupAddress[] = []) => {
          const wrong = isOwn || name !== host ? null : found.map(({ address }) => refusal(url, address)).find(Boolean);
          const [first = { address: "", family: 4 }] = found;
          if (error || wrong) callback(error ?? wrong!, "", 4);
          else if (asked.all) callback(null, found);
          else callback(null, first.address, first.family);
        });
      const { request } = url.protocol === "https:" ? https : http;
      const agent = agents[url.protocol as keyof typeof agents];
      const asked = request(url, { agent, headers, signal, lookup: checked }, (message) => {
        if (isOwn) home = networkOf(message.socket.remoteAddress ?? "");
        const decoder = DECODERS[message.headers["content-encoding"] ?? ""]?.();
        const body = decoder ? pipeline(message, decoder, () => {}) : message;
        resolve({ status: message.statusCode ?? 0, headers: headersOf(message), body: partsOf(body, signal) });
      });
      asked.on("error", (error) => reject(signal.aborted ? signal.reason : error));
      asked.end();
    });
}

/** The parts of a body; what cuts it off says why. */
async function* partsOf(body: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncIterable<Uint8Array> {
  try {
    yield* body;
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  }
}

/** Of a header that comes twice, Node has joined the values or left out the second. */
function headersOf({ headers }: http.IncomingMessage): Headers {
  return new Headers(Object.entries(headers).map(([name, value]) => [name, String(value)]));
}
