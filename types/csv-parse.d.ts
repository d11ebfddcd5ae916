// What core uses of csv-parse, whose own types refer to Node's.
export declare function parse(bytes: Uint8Array, options: object): unknown[];
