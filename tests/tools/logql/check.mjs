// Reads a JSON list of LogQL queries, prints the indices of those that are not in the grammar.
import { readFileSync } from "node:fs";
import { parser } from "@grafana/lezer-logql";

const queries = JSON.parse(readFileSync(0, "utf8"));
const wrong = [];
queries.forEach((query, index) => {
  let clean = true;
  parser.parse(query).iterate({ enter: (node) => { if (node.type.isError) clean = false; } });
  if (!clean) wrong.push(index);
});
console.log(JSON.stringify(wrong));
