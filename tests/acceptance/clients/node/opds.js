// Parses OPDS documents with the parser of the reading app Thorium, and writes the publications it has read.
// Standard input is a list of [type of document, document], as for palace.py.
"use strict";

const { readFileSync } = require("node:fs");
const { initGlobalConverters_OPDS } = require("r2-opds-js/dist/es8-es2017/src/opds/init-globals");
const { initGlobalConverters_GENERIC } = require("r2-shared-js/dist/es8-es2017/src/init-globals");
const { TaJsonDeserialize } = require("r2-lcp-js/dist/es8-es2017/src/serializable");
const { OPDSFeed } = require("r2-opds-js/dist/es8-es2017/src/opds/opds2/opds2");
const { OPDSPublication } = require("r2-opds-js/dist/es8-es2017/src/opds/opds2/opds2-publication");
const { OPDSAuthenticationDoc } = require("r2-opds-js/dist/es8-es2017/src/opds/opds2/opds2-authentication-doc");

const BORROW = "http://opds-spec.org/acquisition/borrow";

initGlobalConverters_OPDS();
initGlobalConverters_GENERIC();

function publications([kind, document]) {
  if (kind === "authentication") {
    const authentication = TaJsonDeserialize(document, OPDSAuthenticationDoc);
    if (!authentication.Authentication[0].Labels.Login) throw new Error("it has no label for the login");
    return [];
  }
  if (kind === "publication") return [TaJsonDeserialize(document, OPDSPublication)];
  const feed = TaJsonDeserialize(document, OPDSFeed);
  return [...(feed.Publications || []), ...(feed.Groups || []).flatMap((group) => group.Publications || [])];
}

function summary(publication) {
  const link = publication.findFirstLinkByRel(BORROW);
  return {
    identifier: publication.Metadata.Identifier,
    title: publication.Metadata.Title,
    borrow: link.Href,
    copies: link.Properties.Copies ? link.Properties.Copies.Total : null,
    available: link.Properties.Availability.State === "available",
  };
}

const documents = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(documents.flatMap(publications).map(summary)));
