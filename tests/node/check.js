// A test that gives up after 90 s, so that the report says which one hung; in a cluster, where each worker is a pod, after OTTO_TEST_SECONDS.
// What OTTO_TEST_LEAVES_OUT fits needs a service of its own, with nothing in it or with settings of its own.
import { test } from "node:test";

const timeout = 1000 * Number(process.env.OTTO_TEST_SECONDS ?? 90);
const leftOut = process.env.OTTO_TEST_LEAVES_OUT;

export const check = (name, run) => (leftOut && new RegExp(leftOut).test(name) ? undefined : test(name, { timeout }, run));
