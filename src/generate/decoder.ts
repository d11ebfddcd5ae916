// A decoder with a key-value cache over one ONNX session, whose adapter can be changed between prompts.
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { Adapter } from "../lora/adapter.ts";
import type { DecoderConfig } from "../models/config.ts";
import type { OpenSession } from "../runtime/session.ts";
import type { Decoder } from "./types.ts";

export interface DecoderOptions {
  checkpoint: Checkpoint;
  config: DecoderConfig;
  openSession: OpenSession;
  /** Threads of one matrix product; all cores if absent. */
  threads?: number;
}

export interface ModelDecoder extends Decoder {
  /** Attaches another adapter, or none. */
  useAdapter(adapter: Adapter | null): Promise<void>;
  close(): Promise<void>;
}

export declare function openDecoder(options: DecoderOptions): Promise<ModelDecoder>;
