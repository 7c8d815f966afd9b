import java.io.IOException;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

import org.springframework.beans.factory.DisposableBean;
import org.springframework.http.MediaType;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/** Streams of named events: one emitter per client, one timer for all of them. Spring Boot takes it as it stands. */
@RestController
public class StreamController implements DisposableBean {
    private static final long INTERVAL_MS = Long.parseLong(System.getenv().getOrDefault("INTERVAL_MS", "1000"));
    private static final long COUNT = Long.parseLong(System.getenv().getOrDefault("COUNT", "9000000000000000"));

    private final Set<Client> clients = ConcurrentHashMap.newKeySet();
    private final ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();

    public StreamController() {
        timer.scheduleAtFixedRate(() -> clients.forEach(Client::tick), INTERVAL_MS, INTERVAL_MS, TimeUnit.MILLISECONDS);
    }

    @Override
    public void destroy() {
        timer.shutdownNow();
    }

    @GetMapping(path = "/events", produces = MediaType.TEXT_EVENT_STREAM_VALUE)
    public SseEmitter events(
            @RequestHeader(name = "Last-Event-ID", defaultValue = "0") long after,
            @RequestParam(name = "silent", defaultValue = "false") boolean silent,
            @RequestParam(name = "comments", defaultValue = "false") boolean comments)
            throws IOException {
        SseEmitter emitter = new SseEmitter(0L); // no limit: the proxy's timeouts know more
        Client client = new Client(emitter, after, silent, comments);
        // Called for every end, timeouts and errors included.
        emitter.onCompletion(() -> clients.remove(client));
        emitter.onTimeout(emitter::complete);
        // Tells the client that it is connected, whenever the first event may come.
        emitter.send(SseEmitter.event().name("connection").data("open"));
        clients.add(client);
        return emitter;
    }

    @GetMapping(path = "/clients", produces = MediaType.APPLICATION_JSON_VALUE)
    public String clients() {
        return String.valueOf(clients.size());
    }

    /** One open stream, and how far it is. Only the timer's thread changes it. */
    private final class Client {
        private final SseEmitter emitter;
        private final long last;
        private final boolean silent;
        private final boolean comments;
        private long number;

        Client(SseEmitter emitter, long after, boolean silent, boolean comments) {
            this.emitter = emitter;
            this.number = after;
            this.last = after + COUNT;
            this.silent = silent;
            this.comments = comments;
        }

        void tick() {
            if (silent) {
                return;
            }
            number++;
            try {
                if (comments) {
                    emitter.send(SseEmitter.event().comment("before " + number));
                }
                String data = "{\"number\":" + number + "}";
                emitter.send(SseEmitter.event().id(Long.toString(number)).name("tick").data(data));
                if (number >= last) {
                    emitter.complete();
                }
            } catch (IOException | IllegalStateException gone) {
                // The client has left. This is the only way in which a servlet learns of it.
                clients.remove(this);
                emitter.completeWithError(gone);
            }
        }
    }
}
