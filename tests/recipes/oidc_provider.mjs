// An OpenID provider (npm `oidc-provider`) whose access tokens are JWTs of RFC 9068: `node provider.mjs PORT SECONDS`.
// Each start makes another key. Anybody may log in, with any password.
import { createServer } from "node:http";
import { exportJWK, generateKeyPair } from "jose";
import { Provider } from "oidc-provider";

const [port, seconds] = process.argv.slice(2).map(Number);
const { privateKey } = await generateKeyPair("ES256", { extractable: true });
const key = { ...(await exportJWK(privateKey)), use: "sig", alg: "ES256" };
const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: [key] },
  cookies: { keys: ["for tests"] },
  clients: [{
    client_id: "app", client_secret: "secret", redirect_uris: ["https://app.example.org/callback"],
    grant_types: ["authorization_code", "client_credentials"], id_token_signed_response_alg: "ES256",
  }],
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  ttl: { AccessToken: seconds, ClientCredentials: seconds, Grant: 3600, Interaction: 3600, Session: 3600 },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => "urn:dispatcher",
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: "orders:read", audience: "dispatcher", accessTokenFormat: "jwt", accessTokenTTL: seconds,
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
});
createServer(provider.callback()).listen(port, "127.0.0.1");
