import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.security.cert.X509Certificate;
import java.util.Arrays;
import java.util.stream.Collectors;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/**
 * Reads responses to their ends, and prints as JSON what each gave and how it ended; see breaks.mjs.
 *
 * <p>java Breaks.java HttpClient|HttpURLConnection URL...
 */
public class Breaks {
    public static void main(String[] arguments) throws Exception {
        // The certificate of the test signs itself.
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new Anyone()}, null);
        HttpsURLConnection.setDefaultSSLSocketFactory(context.getSocketFactory());
        HttpClient client = HttpClient.newBuilder().sslContext(context).build();
        String results = Arrays.stream(arguments).skip(1).parallel()
            .map(url -> "\"" + url + "\": " + read(arguments[0], client, URI.create(url)))
            .collect(Collectors.joining(", ", "{", "}"));
        System.out.println(results);
        System.exit(0);
    }

    static String read(String reader, HttpClient client, URI url) {
        StringBuilder text = new StringBuilder();
        String error = null;
        try (InputStream body = open(reader, client, url)) {
            byte[] buffer = new byte[4096];
            for (int count; (count = body.read(buffer)) >= 0; ) {
                text.append(new String(buffer, 0, count, StandardCharsets.UTF_8));
            }
        } catch (Exception problem) {
            error = problem.toString();
        }
        return "{\"text\": " + quoted(text.toString()) + ", \"error\": " + quoted(error) + "}";
    }

    static InputStream open(String reader, HttpClient client, URI url) throws IOException, InterruptedException {
        if (reader.equals("HttpClient")) {
            HttpRequest request = HttpRequest.newBuilder(url).header("Accept", "text/event-stream").build();
            return client.send(request, BodyHandlers.ofInputStream()).body();
        }
        HttpURLConnection connection = (HttpURLConnection) url.toURL().openConnection();
        connection.setRequestProperty("Accept", "text/event-stream");
        return connection.getInputStream();
    }

    static String quoted(String text) {
        if (text == null) {
            return "null";
        }
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n").replaceAll("\\p{Cntrl}", "") + "\"";
    }

    private static class Anyone implements X509TrustManager {
        @Override public void checkClientTrusted(X509Certificate[] chain, String type) {}

        @Override public void checkServerTrusted(X509Certificate[] chain, String type) {}

        @Override public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }
}
