/** Where an agent is: a path or a URL. */

const isUrl = (at: string): boolean => /^https?:\/\//i.test(at)

/** Whether it is a URL of a kind that no agent is reached by, which a path does not look like. */
export const isForeign = (at: string): boolean =>
  /^[a-z][a-z0-9+.-]*:\/\//i.test(at) && !isUrl(at) && !/^unix:/i.test(at)

/** The path of the socket, unless it is a URL. `unix:` before a path is allowed. */
export const socketPath = (at: string): string | undefined => (isUrl(at) ? undefined : at.replace(/^unix:(\/\/)?/, ""))

/** What requests are sent to; over a socket the host says nothing. */
export const base = (at: string): string => (isUrl(at) ? at.replace(/\/+$/, "") : "http://agent")
