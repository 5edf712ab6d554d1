// A test that gives up after 25 s, so that the report says which one hung.
import { test } from "node:test";

export const check = (name, run) => test(name, { timeout: 25_000 }, run);
